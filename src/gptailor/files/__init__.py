"""Files read and written: YAML, files of bounded size, and atomic writes."""
