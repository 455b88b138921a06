"""The protocols of worker pools and of the evaluators that run in them."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from gptailor.core.trial import Evaluation, Job

__all__ = ["Evaluator", "EvaluatorFactory", "WorkerPool", "WorkerSetup"]


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """How many other processes evaluate at one time, and where.

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
    """Runs jobs: in this process, one process a device, or on a cluster."""

    @property
    def setup(self) -> WorkerSetup | None:
        """The workers; None if this process alone evaluates."""
        ...

    def evaluate(self, jobs: Sequence[Job]) -> Iterable[Evaluation]:
        """Run every job; yield one evaluation each, in order, as soon as it is known.

        Neighbouring jobs share prefixes, and are best run together. A candidate that can't be
        scored comes back as a failure with its reason; any other error is raised.
        """
        ...

    def close(self) -> None:
        """End processes and free memory; no job is accepted afterwards."""
        ...


class Evaluator(Protocol):
    """Scores candidates."""

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        """Run every job; one evaluation each, in order."""
        ...


class EvaluatorFactory(Protocol):
    """Makes, in another process, an evaluator that scores as this process's does.

    It can be pickled and is small: it holds names, paths and digests, never weights.
    """

    @property
    def device(self) -> str:
        """Where evaluators are to run: ``auto``, ``cpu``, ``cuda``, ``cuda:N`` or ``mps``."""
        ...

    @property
    def threads(self) -> int | None:
        """CPU threads of each evaluator; None leaves it to the pool."""
        ...

    def __call__(self, *, device: str, threads: int) -> Evaluator:
        """Make an evaluator.

        Raises:
            UserError: It can't be made here, or its files or libraries differ from this process's.
        """
        ...
