"""How thousands of tailorings are evaluated without building a model."""

from gptailor.engine.engine import Engine
from gptailor.engine.evaluator import Evaluator

__all__ = ["Engine", "Evaluator"]
