"""The protocols of whoever runs evaluations. Knows nothing of models or tasks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gptailor.core.trial import Evaluation, Job

__all__ = ["Recipe", "Scorer", "WorkerPool", "WorkerSetup"]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What other processes evaluate at one time.

    Args:
        n_workers: How many.
        device: Where each runs layers: ``cpu``, ``cuda`` or ``mps``.
        threads: CPU threads of each.
        crowding: Threads for each core where they share a machine's; 1 where each has its own.
    """

    n_workers: int
    device: str
    threads: int
    crowding: float = 1.0


class WorkerPool(Protocol):
    """Runs jobs somewhere: in this process, one process a device, or a cluster."""

    @property
    def spread(self) -> WorkerSetup | None:
        """Who evaluates; None if it is this process alone."""
        ...

    def evaluate(self, jobs: Sequence[Job]) -> Iterable[Evaluation]:
        """Run every job and give one evaluation each, in order, as soon as it is there.

        Jobs that stand side by side share prefixes, and are best run together. A candidate that
        can't be scored comes back as a failure with its reason; anything else that goes wrong is
        raised.
        """
        ...

    def close(self) -> None:
        """Let go of processes and memory; no job is accepted afterwards."""
        ...


class Scorer(Protocol):
    """Whatever turns jobs into evaluations."""

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Give one evaluation a job, in order."""
        ...


class Recipe(Protocol):
    """How another process makes the scorer that this one has; it can be pickled.

    What it carries is small: names and paths, never weights.
    """

    @property
    def device(self) -> str:
        """Where scorers are to run: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
        ...

    @property
    def threads(self) -> int | None:
        """CPU threads of each scorer; None leaves it to the pool."""
        ...

    def __call__(self, *, device: str, threads: int) -> Scorer:
        """Make a scorer.

        Raises:
            UserError: It can't be made here, or would not score what the first one scores.
        """
        ...
