"""Train a finished model for a short time: LoRA, towards the next token and a teacher."""
