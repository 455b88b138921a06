"""Evaluations in this process: the common case. Knows nothing of models or tasks."""

from collections.abc import Sequence
from typing import Protocol

from gptailor.trial import Evaluation, Job

__all__ = ["LocalPool", "Scorer"]


class Scorer(Protocol):
    """Whatever turns jobs into evaluations."""

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Give one evaluation a job, in order."""
        ...


class LocalPool:
    """Run every group of jobs at once, in this process.

    Args:
        evaluator: What scores jobs.
        group_size: Most candidates run together; fewer keep less in memory.
    """

    def __init__(self, evaluator: Scorer, *, group_size: int = 64) -> None:
        self._evaluator = evaluator
        self._group_size = group_size

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Run the jobs, `group_size` at a time, in order."""
        done: list[Evaluation] = []
        for start in range(0, len(jobs), self._group_size):
            done += self._evaluator.evaluate(jobs[start : start + self._group_size])
        return done

    def close(self) -> None:
        """Nothing to let go of."""
