"""Members read from GGUF files."""
