"""Run jobs on workers that may be lost, and lose no job.

When a worker is lost, the jobs of its group are tried again one by one, by other workers where
there are others, and fail after `_ATTEMPTS`.
"""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gptailor.core.trial import Evaluation, Job
from gptailor.errors import RecordError
from gptailor.workers.grouping import divided
from gptailor.workers.pool import WorkerSetup

__all__ = ["Answer", "Lost", "Ready", "SupervisedPool", "WorkerBackend"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # at a job: the first, and two more
MAX_IDLE_DEATHS = 3  # losses of a worker in succession without a job done or running


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker can take jobs."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker has ended, or must be ended: a device or memory failed."""

    reason: str  # how it ended


Answer = Ready | Lost | list[Evaluation]


class WorkerBackend(Protocol):
    """Starts workers, by number, hands jobs to them and waits for their answers."""

    @property
    def n_workers(self) -> int:
        """How many there may be; they are numbered from 0."""
        ...

    def start(self, worker: int) -> None:
        """Begin to start a worker; `wait` returns `Ready` for it later."""
        ...

    def submit(self, worker: int, jobs: Sequence[Job]) -> Lost | None:
        """Hand jobs to a worker that is ready; `wait` returns their evaluations later.

        Returns how it ended, if it is known to have ended before it received them.
        """
        ...

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next answer of any worker.

        Raises:
            UserError: A worker can't be made, and why.
        """
        ...

    def stop(self, worker: int) -> None:
        """End a worker at once, whatever it does; it may be started again."""
        ...


class SupervisedPool:
    """A worker pool over any backend.

    Workers are started when there are jobs, and no more of them than there are groups.

    Args:
        backend: The workers.
        setup: How many they are and where they run, for reports and forecasts.
        group_size: Most candidates run together.
        on_close: Called after the last worker has ended.
    """

    def __init__(
        self,
        backend: WorkerBackend,
        *,
        setup: WorkerSetup,
        group_size: int = 16,
        on_close: Callable[[], object] | None = None,
    ) -> None:
        self._workers, self._setup, self._group_size = _Workers(backend), setup, group_size
        self._on_close = on_close

    @property
    def setup(self) -> WorkerSetup:
        """How many workers evaluate, and where."""
        return self._setup

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run the jobs on all workers; yield the evaluations in the jobs' order.

        Raises:
            RecordError: No worker is left.
        """
        groups = divided(jobs, self._workers.backend.n_workers, group_size=self._group_size)
        return _Round(self._workers, jobs, deque(map(_Group, groups))).evaluations()

    def close(self) -> None:
        """End every worker."""
        for worker in range(self._workers.backend.n_workers):
            self._workers.backend.stop(worker)
        self._workers.starting.clear()
        self._workers.idle.clear()
        if self._on_close is not None:
            self._on_close()


@dataclass(slots=True)
class _Workers:
    """The state of the workers between rounds of jobs."""

    backend: WorkerBackend
    starting: set[int] = field(default_factory=set)  # not ready yet
    idle: set[int] = field(default_factory=set)  # ready, and running nothing
    idle_deaths: dict[int, int] = field(default_factory=dict)  # see `MAX_IDLE_DEATHS`

    @property
    def usable(self) -> set[int]:
        """Workers that were not lost again and again with nothing to do."""
        numbers = range(self.backend.n_workers)
        return {one for one in numbers if self.idle_deaths.get(one, 0) < MAX_IDLE_DEATHS}

    def on_idle_death(self, worker: int, reason: str) -> None:
        """Count a loss with nothing to do; RecordError if no usable worker is left."""
        self.idle_deaths[worker] = self.idle_deaths.get(worker, 0) + 1
        logger.warning("worker %d was lost (%s) with nothing to do", worker, reason)
        if not self.usable:
            raise RecordError(
                f"no worker is left: each was lost {MAX_IDLE_DEATHS} times before it had scored "
                f"anything, the last time: {reason}; ask for fewer workers or free memory, and run "
                "the same command again: what was scored is recorded"
            )


@dataclass(frozen=True, slots=True)
class _Group:
    """Indices of jobs that are run together, and workers that were lost while they ran them."""

    indices: tuple[int, ...]
    excluded: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Round:
    """The jobs of one call of `evaluate`: pending, running, done, and attempts at each."""

    workers: _Workers
    jobs: Sequence[Job]
    pending: deque[_Group]
    running: dict[int, _Group] = field(default_factory=dict)
    done: dict[int, Evaluation] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)

    def evaluations(self) -> Iterator[Evaluation]:
        """Run everything; yield the evaluations in the jobs' order."""
        try:
            for index in range(len(self.jobs)):
                while index not in self.done:
                    self._hand_out()
                    self._wait_one()
                self._hand_out()  # so that workers run while the caller writes this one down
                yield self.done.pop(index)
        finally:
            for worker in self.running:  # their answers would be taken for those of the next round
                self.workers.backend.stop(worker)

    def _may_take(self, worker: int, group: _Group) -> bool:
        """Whether a worker was not lost on a group, or no other worker lives.

        One that is still to start does not count: a cluster may never have room for it.
        """
        living = self.workers.idle | self.running.keys()
        return worker not in group.excluded or group.excluded >= living

    def _hand_out(self) -> None:
        """Submit pending groups to idle workers, and start workers for the rest."""
        for group in list(self.pending):
            if self._submitted(group):
                self.pending.remove(group)
        starting = self.workers.starting
        absent = self.workers.usable - self.workers.idle - starting - self.running.keys()
        last = {one for one in absent if all(one in group.excluded for group in self.pending)}
        for worker in sorted(absent, key=lambda one: (one in last, one)):
            if len(starting) >= len(self.pending):
                return
            if any(self._may_take(worker, group) for group in self.pending):
                starting.add(worker)
                self.workers.backend.start(worker)

    def _submitted(self, group: _Group) -> bool:
        """Whether an idle worker took a group."""
        for worker in sorted(self.workers.idle):
            if not self._may_take(worker, group):
                continue
            self.workers.idle.remove(worker)
            jobs = [self.jobs[index] for index in group.indices]
            lost = self.workers.backend.submit(worker, jobs)
            if lost is None:
                self.running[worker] = group
                return True
            self._on_worker_lost(worker, lost.reason)
        return False

    def _wait_one(self) -> None:
        """Wait for one worker's answer."""
        worker, answer = self.workers.backend.wait()
        if isinstance(answer, Lost):
            self._on_worker_lost(worker, answer.reason)
            return
        self.workers.starting.discard(worker)
        self.workers.idle.add(worker)
        if not isinstance(answer, Ready):
            self.workers.idle_deaths[worker] = 0
            self.done |= dict(zip(self.running.pop(worker).indices, answer, strict=True))

    def _on_worker_lost(self, worker: int, reason: str) -> None:
        """Retry a lost worker's jobs singly; fail them after `_ATTEMPTS`."""
        self.workers.starting.discard(worker)
        self.workers.idle.discard(worker)
        group = self.running.pop(worker, None)
        if group is None:
            self.workers.on_idle_death(worker, reason)
            return
        n_jobs = len(group.indices)
        logger.warning("worker %d was lost (%s) with %d candidates", worker, reason, n_jobs)
        again = []
        for index in group.indices:
            self.attempts[index] = self.attempts.get(index, 0) + 1
            if self.attempts[index] < _ATTEMPTS:
                again.append(_Group((index,), group.excluded | {worker}))
            else:
                failure = f"{_ATTEMPTS} workers were lost while they ran it; the last: {reason}"
                self.done[index] = Evaluation(None, failure, 0.0, 0)
        self.pending.extendleft(reversed(again))
