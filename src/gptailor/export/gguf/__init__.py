"""A tailoring as a GGUF file."""
