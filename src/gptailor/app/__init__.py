"""The wiring: makes every part from a config."""
