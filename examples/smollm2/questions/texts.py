"""Texts whose likelihood is measured: solutions step by step, and short functions in Python.

Each is written in the form of the variants' own training texts. Knows nothing of how rows are split.
"""

__all__ = ["code_groups", "code_texts", "math_groups", "math_texts"]
