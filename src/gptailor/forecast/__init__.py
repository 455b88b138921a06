"""Forecasts of what a search will cost: trials, tokens, memory, time."""
