"""Faster layers on CPUs: attention, matrix products, memory allocation."""
