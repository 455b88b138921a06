"""Worker pools: where candidates are evaluated, in this process, in others, or on a cluster."""

from gptailor.workers.pool import Evaluator, EvaluatorFactory, WorkerPool, WorkerSetup

__all__ = ["Evaluator", "EvaluatorFactory", "WorkerPool", "WorkerSetup"]
