"""The protocol of whoever runs evaluations. Knows nothing of models or tasks."""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gptailor.trial import Evaluation, Job

__all__ = ["WorkerPool"]


class WorkerPool(Protocol):
    """Runs jobs somewhere: in this process, one process a device, or a cluster."""

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
