"""GPTailor: make a smaller language model from a family of fine-tuned ones."""
