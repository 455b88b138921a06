"""Tasks: examples as token ids, their three splits, and how a model's answers become metrics.

lm-eval is imported when a task is loaded, not before; torch by `divergence` alone.
"""
