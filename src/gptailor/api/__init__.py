"""The Python interface: search, read a run, score a candidate; the commands call the same."""
