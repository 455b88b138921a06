"""Tasks of lm-eval, and local task files in its format."""
