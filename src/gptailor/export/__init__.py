"""What leaves the house: a tailoring as a stock checkpoint, with its model card."""

from gptailor.export.card import CardFacts, ScoreRow, model_card
from gptailor.export.checkpoint import card_facts, export_checkpoint

__all__ = ["CardFacts", "ScoreRow", "card_facts", "export_checkpoint", "model_card"]
