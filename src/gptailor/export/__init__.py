"""Exports of a tailoring: a checkpoint with its card, a GGUF file, or a recipe for mergekit."""

from gptailor.export.card import CardFacts, model_card
from gptailor.export.checkpoint import card_facts, export_checkpoint
from gptailor.export.gguf.writer import export_gguf
from gptailor.export.mergekit.recipe import export_recipe, mergekit_recipe
from gptailor.export.push import Repository, open_repository, push_folder

__all__ = [
    "CardFacts",
    "Repository",
    "card_facts",
    "export_checkpoint",
    "export_gguf",
    "export_recipe",
    "mergekit_recipe",
    "model_card",
    "open_repository",
    "push_folder",
]
