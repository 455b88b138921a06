"""A finished model, the base and the variants evaluated side by side by lm-eval."""
