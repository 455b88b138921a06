"""WorkerSetup jobs over workers that may die, and lose none of them.

Groups of jobs are fixed before anything is handed out. A worker that dies takes one group with it:
its jobs are tried again one by one, by others where there are others, twice at most. Knows nothing
of how workers run: a `Crew` starts them, hands jobs to them and hears from them.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from gptailor.core.trial import Evaluation, Job
from gptailor.errors import RecordError
from gptailor.workers.grouping import divided
from gptailor.workers.option_checks import refuse_bad_counts
from gptailor.workers.pool import WorkerSetup

__all__ = ["Answer", "Crew", "CrewPool", "Lost", "Ready"]

logger = logging.getLogger(__name__)

_ATTEMPTS = 3  # at a job: the first, and two more
_BARREN = 3  # deaths of a worker, one after the other, with nothing done and nothing to do


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

    def submit(self, worker: int, jobs: Sequence[Job]) -> Lost | None:
        """Hand jobs to a worker that is ready; `wait` tells what came of them.

        Returns:
            How it ended, if it is known to have died before it took them.
        """
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
        spread: What they are, for whoever asks.
        group_size: Most candidates run together.

    Raises:
        ConfigError: The group size is not a whole number of 1 or more.
    """

    def __init__(self, crew: Crew, *, spread: WorkerSetup, group_size: int = 16) -> None:
        refuse_bad_counts(group_size=group_size)
        self._crew, self._spread, self._group_size = crew, spread, group_size
        self._starting: set[int] = set()
        self._idle: set[int] = set()
        self._barren = dict.fromkeys(range(crew.n_workers), 0)

    @property
    def spread(self) -> WorkerSetup:
        """Who evaluates."""
        return self._spread

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
                self._hand_out(this)  # nobody waits for whoever writes this down
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
        told = divided(jobs, self._crew.n_workers, group_size=self._group_size)
        return [_Group(indices) for indices in told]

    def _usable(self) -> list[int]:
        """Workers that did not die again and again with nothing to do."""
        return [worker for worker, deaths in self._barren.items() if deaths < _BARREN]

    def _may_take(self, this: _Round, worker: int, group: _Group) -> bool:
        """Whether a worker is none of those that died on a group, if another one lives.

        One that is still to start does not count: a cluster may never have room for it.
        """
        living = self._idle | this.running.keys()
        return worker not in group.shunned or group.shunned >= living

    def _hand_out(self, this: _Round) -> None:
        """Give what is pending to idle workers, and start workers for what is left."""
        for group in list(this.pending):
            if self._handed_over(this, group):
                this.pending.remove(group)
        absent = set(self._usable()) - self._idle - self._starting - this.running.keys()
        for worker in sorted(absent, key=lambda one: (_all_shun(this.pending, one), one)):
            if len(self._starting) >= len(this.pending):
                return
            if any(self._may_take(this, worker, group) for group in this.pending):
                self._starting.add(worker)
                self._crew.start(worker)

    def _handed_over(self, this: _Round, group: _Group) -> bool:
        """Whether an idle worker took a group."""
        for worker in sorted(self._idle):
            if not self._may_take(this, worker, group):
                continue
            self._idle.remove(worker)
            lost = self._crew.submit(worker, [this.jobs[index] for index in group.indices])
            if lost is None:
                this.running[worker] = group
                return True
            self._bury(this, worker, lost.reason)
        return False

    def _hear(self, this: _Round) -> None:
        """Wait for one worker and take note of what it tells."""
        worker, answer = self._crew.wait()
        if isinstance(answer, Ready):
            self._starting.remove(worker)
            self._idle.add(worker)
        elif isinstance(answer, Lost):
            self._bury(this, worker, answer.reason)
        else:
            group = this.running.pop(worker)
            self._idle.add(worker)
            self._barren[worker] = 0
            this.done |= dict(zip(group.indices, answer, strict=True))

    def _bury(self, this: _Round, worker: int, reason: str) -> None:
        """Take note of a death; what the worker had to do is tried again, or has failed."""
        self._starting.discard(worker)
        self._idle.discard(worker)
        group = this.running.pop(worker, None)
        if group is None:
            self._count_barren(worker, reason)
            return
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

    def _count_barren(self, worker: int, reason: str) -> None:
        """Give up on a worker that dies again and again while nothing is asked of it."""
        self._barren[worker] += 1
        logger.warning("worker %d was lost (%s) with nothing to do", worker, reason)
        if not self._usable():
            raise RecordError(
                f"no worker is left: each was lost {_BARREN} times before it had scored anything, "
                f"the last one thus: {reason}; ask for fewer workers or free memory, and run the "
                "same command again: what was scored is recorded"
            )


def _all_shun(groups: Iterable[_Group], worker: int) -> bool:
    return all(worker in group.shunned for group in groups)
