"""The engine: evaluates tailorings without building a model for each."""

from gptailor.engine.engine import Engine
from gptailor.engine.evaluator import Evaluator

__all__ = ["Engine", "Evaluator"]
