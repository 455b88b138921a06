"""The engine: evaluates tailorings without building a model for each."""

from gptailor.engine.engine import Engine
from gptailor.engine.evaluator import Evaluator
from gptailor.engine.walk import Work

__all__ = ["Engine", "Evaluator", "Work"]
