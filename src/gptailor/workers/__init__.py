"""Where evaluations run."""

from gptailor.workers.pool import WorkerPool

__all__ = ["WorkerPool"]
