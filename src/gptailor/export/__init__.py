"""What leaves the house: a tailoring as a stock checkpoint with its card, or as a GGUF file."""

from gptailor.export.card import CardFacts, ScoreRow, model_card
from gptailor.export.checkpoint import card_facts, export_checkpoint
from gptailor.export.gguf import export_gguf

__all__ = ["CardFacts", "ScoreRow", "card_facts", "export_checkpoint", "export_gguf", "model_card"]
