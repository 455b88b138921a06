"""A pool over a backend played by chance: which worker has room, answers next or dies."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scorers import answer, job

from gptailor.core.trial import Job
from gptailor.errors import RecordError
from gptailor.workers.pool import WorkerSetup
from gptailor.workers.supervisor import Answer, Lost, Ready, SupervisedPool

KILLER = 99  # examples of a job on which every worker dies


class Chance:
    """Workers in a cluster that has room for a few of them, first come, first served.

    Args:
        n_workers: How many there may be.
        room: How many at one time.
        rng: Who answers next, and who dies.
        deaths: How many workers die for no reason: starting, idle, or running something.
        odds: Of each such death.
    """

    def __init__(
        self,
        n_workers: int,
        room: int,
        rng: np.random.Generator,
        deaths: int,
        odds: float = 0.3,
    ) -> None:
        self.n_workers, self._room, self._rng = n_workers, room, rng
        self._deaths, self._odds = deaths, odds
        self._waiting: list[int] = []
        self._placed: dict[int, Sequence[Job] | None] = {}  # None: it is starting
        self._dead_idle: set[int] = set()
        self.n_deaths: dict[Job, int] = {}

    def start(self, worker: int) -> None:
        assert worker not in self._waiting
        assert worker not in self._placed
        self._waiting.append(worker)
        self._make_room()

    def submit(self, worker: int, jobs: Sequence[Job]) -> Lost | None:
        assert worker in self._placed
        assert jobs
        if worker in self._dead_idle:
            self._lose(worker)
            return Lost("it was dead")
        self._placed[worker] = list(jobs)
        return None

    def wait(self) -> tuple[int, Answer]:
        able = [worker for worker, doing in sorted(self._placed.items()) if doing != []]
        assert able, "it would wait for ever"
        worker = able[self._rng.integers(len(able))]
        jobs = self._placed[worker]
        if self._dies() or any(one.n_examples == KILLER for one in jobs or ()):
            for one in jobs or ():
                self.n_deaths[one] = self.n_deaths.get(one, 0) + 1
            self._lose(worker)
            return worker, Lost("it died")
        self._placed[worker] = []
        if self._dies():
            self._dead_idle.add(worker)
        return worker, Ready() if jobs is None else [answer(one) for one in jobs]

    def stop(self, worker: int) -> None:
        self._waiting = [one for one in self._waiting if one != worker]
        if worker in self._placed:
            self._lose(worker)

    def _dies(self) -> bool:
        dies = self._deaths > 0 and self._rng.random() < self._odds
        self._deaths -= dies
        return dies

    def _lose(self, worker: int) -> None:
        del self._placed[worker]
        self._dead_idle.discard(worker)
        self._make_room()

    def _make_room(self) -> None:
        while self._waiting and len(self._placed) < self._room:
            self._placed[self._waiting.pop(0)] = None


def pool_of(backend: Chance, group_size: int = 3) -> SupervisedPool:
    return SupervisedPool(
        backend, setup=WorkerSetup(backend.n_workers, "cpu", 1), group_size=group_size
    )


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4), st.integers(0, 2))
@settings(max_examples=6 * settings.default.max_examples)
def test_every_job_is_answered_and_only_what_kills_has_failed(
    seed: int, n_workers: int, room: int, deaths: int
) -> None:
    rng = np.random.default_rng(seed)
    backend = Chance(n_workers, room, rng, deaths)  # two deaths are less than any third attempt
    pool = pool_of(backend)
    for _ in range(3):
        backend.n_deaths.clear()
        killers = set(rng.choice(11, size=rng.integers(3), replace=False).tolist())
        jobs = [job(n + 1, KILLER if n in killers else 4) for n in range(rng.integers(12))]
        done = list(pool.evaluate(jobs))
        for number, (one, evaluation) in enumerate(zip(jobs, done, strict=True)):
            if number in killers:
                assert evaluation.failure == "3 workers were lost while they ran it; the last: " + (
                    "it died"
                )
                assert backend.n_deaths[one] == 3
            elif evaluation != answer(one):
                assert evaluation.failure is not None
                assert backend.n_deaths[one] == 3  # its group's killer, and two deaths by chance
    pool.close()


def test_a_worker_that_never_finds_room_does_not_keep_back_what_killed_the_other() -> None:
    for seed in range(100):
        backend = Chance(2, 1, np.random.default_rng(seed), 0)
        jobs = [job(number, KILLER if number == seed % 4 else 4) for number in range(1, 5)]
        done = list(pool_of(backend, group_size=1 + seed % 3).evaluate(jobs))
        assert [one.failure is None for one in done] == [one.n_examples == 4 for one in jobs]


def test_a_crew_that_only_dies_is_given_up() -> None:
    backend = Chance(2, 2, np.random.default_rng(0), 10**6, odds=1.0)
    with pytest.raises(RecordError, match="no worker is left: each was lost 3 times"):
        list(pool_of(backend).evaluate([job(1), job(2)]))
