"""Evaluations in this process: the common case. Knows nothing of models or tasks."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from gptailor.errors import ConfigError
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
        group_size: Most candidates run together; fewer share less and lose less at a kill.

    Raises:
        ConfigError: The group size is not a whole number of 1 or more.
    """

    def __init__(self, evaluator: Scorer, *, group_size: int = 16) -> None:
        if isinstance(group_size, bool) or not isinstance(group_size, int) or group_size < 1:
            raise ConfigError(
                "workers.options.group_size: must be a whole number of 1 or more, "
                f"not {group_size!r}"
            )
        self._evaluator = evaluator
        self._group_size = group_size

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run the jobs, `group_size` at a time, in order."""
        for start in range(0, len(jobs), self._group_size):
            yield from self._evaluator.evaluate(jobs[start : start + self._group_size])

    def close(self) -> None:
        """Nothing to let go of."""
