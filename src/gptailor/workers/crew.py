"""Spread jobs over workers that may die, and lose none of them.

Groups of jobs are fixed before anything is handed out. A worker that dies takes one group with it:
its jobs are tried again one by one, by others where there are others, twice at most. Knows nothing
of how workers run: a `Crew` starts them, hands jobs to them and hears from them.
"""

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gptailor.errors import ConfigError, RecordError
from gptailor.trial import Evaluation, Job
from gptailor.workers.groups import grouped

__all__ = ["Answer", "Crew", "CrewPool", "Lost", "Ready", "count_of"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # at a job: the first, and two more
_STARTS = 3  # of a worker that dies before it is ready


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker can take jobs."""


@dataclass(frozen=True, slots=True)
class Lost:
    """A worker is no more.

    Args:
        reason: How it ended.
    """

    reason: str


Answer = Ready | Lost | list[Evaluation]


class Crew(Protocol):
    """Workers by number, each doing one thing at a time."""

    @property
    def n_workers(self) -> int:
        """How many there may be; they are numbered from 0."""
        ...

    def start(self, worker: int) -> None:
        """Begin to make a worker; `wait` tells when it is ready."""
        ...

    def submit(self, worker: int, jobs: Sequence[Job]) -> None:
        """Hand jobs to a worker that is ready; `wait` tells what came of them."""
        ...

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next worker that has something to tell.

        Raises:
            UserError: A worker can't be made, and why.
        """
        ...

    def stop(self, worker: int) -> None:
        """End a worker at once, whatever it does; it may be started again."""
        ...


@dataclass(frozen=True, slots=True)
class _Group:
    """Jobs that are run together, and the workers that died on them."""

    indices: tuple[int, ...]
    shunned: frozenset[int] = frozenset()


@dataclass(slots=True)
class _Round:
    """One call of `evaluate`: what is to be done, is being done, and is done."""

    jobs: Sequence[Job]
    pending: deque[_Group]
    running: dict[int, _Group] = field(default_factory=dict)
    done: dict[int, Evaluation] = field(default_factory=dict)
    attempts: dict[int, int] = field(default_factory=dict)


class CrewPool:
    """A worker pool over any crew.

    Workers are started when there is something to do, and no more of them than there are groups.

    Args:
        crew: The workers.
        group_size: Most candidates run together.

    Raises:
        ConfigError: The group size is not a whole number of 1 or more.
    """

    def __init__(self, crew: Crew, *, group_size: int = 16) -> None:
        self._crew, self._group_size = crew, count_of("group_size", group_size)
        self._starting: set[int] = set()
        self._idle: set[int] = set()
        self._failed_starts = dict.fromkeys(range(crew.n_workers), 0)

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run the jobs, spread over all workers; give the evaluations in the jobs' order.

        Raises:
            RecordError: No worker is left.
        """
        this = _Round(jobs, deque(self._groups(jobs)))
        try:
            for index in range(len(jobs)):
                while index not in this.done:
                    self._hand_out(this)
                    self._hear(this)
                yield this.done.pop(index)
        finally:
            for worker in this.running:  # nobody will hear them
                self._crew.stop(worker)

    def close(self) -> None:
        """End every worker."""
        for worker in range(self._crew.n_workers):
            self._crew.stop(worker)
        self._starting.clear()
        self._idle.clear()

    def _groups(self, jobs: Sequence[Job]) -> list[_Group]:
        """As many groups as workers, or several rounds of them."""
        n_workers = self._crew.n_workers
        rounds = -(-len(jobs) // (n_workers * self._group_size))
        told = grouped(jobs, n_groups=n_workers * max(1, rounds), most=self._group_size)
        return [_Group(indices) for indices in told]

    def _usable(self) -> list[int]:
        """Workers that did not die again and again before they were ready."""
        return [worker for worker, failed in self._failed_starts.items() if failed < _STARTS]

    def _may_take(self, worker: int, group: _Group) -> bool:
        """Whether a worker is none of those that died on a group, if there are others."""
        return worker not in group.shunned or group.shunned >= set(self._usable())

    def _hand_out(self, this: _Round) -> None:
        """Give what is pending to idle workers, and start workers for what is left."""
        for group in list(this.pending):
            able = [worker for worker in sorted(self._idle) if self._may_take(worker, group)]
            if able:
                this.pending.remove(group)
                self._idle.remove(able[0])
                this.running[able[0]] = group
                self._crew.submit(able[0], [this.jobs[index] for index in group.indices])
        for worker in self._usable():
            if len(self._starting) >= len(this.pending):
                return
            if worker in self._starting or worker in self._idle or worker in this.running:
                continue
            if any(self._may_take(worker, group) for group in this.pending):
                self._starting.add(worker)
                self._crew.start(worker)

    def _hear(self, this: _Round) -> None:
        """Wait for one worker and take note of what it tells."""
        worker, answer = self._crew.wait()
        if isinstance(answer, Ready):
            self._starting.remove(worker)
            self._failed_starts[worker] = 0
            self._idle.add(worker)
        elif isinstance(answer, Lost):
            self._bury(this, worker, answer.reason)
        else:
            group = this.running.pop(worker)
            self._idle.add(worker)
            this.done |= dict(zip(group.indices, answer, strict=True))

    def _bury(self, this: _Round, worker: int, reason: str) -> None:
        """Take note of a death; what the worker had to do is tried again, or has failed."""
        self._idle.discard(worker)
        if worker in self._starting:
            self._starting.remove(worker)
            self._give_up_on_starting(worker, reason)
            return
        group = this.running.pop(worker, _Group(()))  # it may have died idle
        n_jobs = len(group.indices)
        logger.warning("worker %d was lost (%s) with %d candidates", worker, reason, n_jobs)
        again = []
        for index in group.indices:
            this.attempts[index] = this.attempts.get(index, 0) + 1
            if this.attempts[index] < _ATTEMPTS:
                again.append(_Group((index,), group.shunned | {worker}))
            else:
                failure = f"{_ATTEMPTS} workers were lost while they ran it; the last: {reason}"
                this.done[index] = Evaluation(None, failure, 0.0, 0)
        this.pending.extendleft(reversed(again))

    def _give_up_on_starting(self, worker: int, reason: str) -> None:
        self._failed_starts[worker] += 1
        logger.warning("worker %d was lost before it was ready (%s)", worker, reason)
        if not self._usable():
            raise RecordError(
                f"no worker is left: each was lost {_STARTS} times before it was ready, the last "
                f"time because it was {reason}; ask for fewer workers or free memory, and run the "
                "same command again: what was scored is recorded"
            )


def count_of(option: str, value: object) -> int:
    """A worker pool's option that is a count.

    Raises:
        ConfigError: It is not a whole number of 1 or more.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(
            f"workers.options.{option}: must be a whole number of 1 or more, not {value!r}"
        )
    return value
