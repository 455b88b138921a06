"""Make every part from a config; search, open and export runs for Python and the commands."""
