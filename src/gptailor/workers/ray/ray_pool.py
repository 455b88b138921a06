"""Workers on the nodes of a Ray cluster: the door to Ray.

Each worker is an actor with a device of its own. It reads the members from the paths of the config,
as they are on its node, and holds their digests against those of the machine that searches: weights
never go through the object store, and what is sent for a trial is its tailoring and its scores.
Actors are not restarted by Ray but by us, so that a job that kills its worker is counted. Knows
nothing of models or tasks.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from gptailor.core.trial import Evaluation, Job
from gptailor.errors import ConfigError, RecordError
from gptailor.workers.option_checks import ray_problems
from gptailor.workers.pool import Recipe, Scorer, WorkerSetup
from gptailor.workers.protocol import Broken, Crashed, Refused, guarded, heard
from gptailor.workers.supervisor import Answer, CrewPool, Lost, Ready

try:
    import ray
    import ray.exceptions
except ImportError as missing:
    raise ConfigError(
        f"the worker pool 'ray' needs a library that is not installed ({missing.name}); "
        "run: pip install 'gptailor[ray]'"
    ) from None

from gptailor.workers.ray.cluster import Needs, in_short, join, needs_of

__all__ = ["RayCrew", "RayPool", "RayWorker"]

_PATIENCE_S = 600.0  # with no worker placed anywhere
_POLL_S = 5.0  # between looks at who is placed


class RayWorker:
    """One actor: what a worker process is on one machine.

    Args:
        recipe: How it makes its scorer.
        device: Where it runs layers.
        threads: CPU threads.
    """

    def __init__(self, recipe: Recipe, device: str, threads: int) -> None:
        self._recipe, self._device, self._threads = recipe, device, threads
        self._scorer: Scorer | None = None

    def place(self) -> None:
        """Answer once the cluster has made room."""

    def begin(self) -> Ready | Refused | Broken | Crashed:
        """Make the scorer."""
        made = guarded(partial(self._recipe, device=self._device, threads=self._threads))
        if isinstance(made, Refused | Broken | Crashed):
            return made
        self._scorer = made
        return Ready()

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation] | Refused | Broken | Crashed:
        """Score jobs."""
        scorer = self._scorer
        assert scorer is not None, "asked before it was ready"
        return guarded(partial(scorer.evaluate, jobs))


class RayCrew:
    """Start, feed and hear actors.

    Args:
        recipe: How each of them makes its scorer.
        needs: What each of them is given.
        n_workers: How many there may be.
    """

    def __init__(self, recipe: Recipe, needs: Needs, n_workers: int) -> None:
        self._recipe, self._needs, self._n_workers = recipe, needs, n_workers
        self._make = ray.remote(
            num_cpus=0 if needs.gpus else needs.threads,
            num_gpus=needs.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(RayWorker)
        self._actors: dict[int, Any] = {}
        self._unplaced: dict[Any, int] = {}
        self._asked: dict[Any, int] = {}

    @property
    def n_workers(self) -> int:
        """How many there may be."""
        return self._n_workers

    def start(self, worker: int) -> None:
        """Ask for an actor anywhere in the cluster; it makes its scorer once it has a place."""
        actor = self._make.remote(self._recipe, self._needs.device, self._needs.threads)
        self._actors[worker] = actor
        self._unplaced[actor.place.remote()] = worker
        self._asked[actor.begin.remote()] = worker

    def submit(self, worker: int, jobs: Sequence[Job]) -> None:
        """Send jobs to an actor; whether it lives is told by `wait`."""
        self._asked[self._actors[worker].evaluate.remote(list(jobs))] = worker

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next actor that answers or is lost.

        Raises:
            RecordError: For ten minutes no node had room for any worker.
        """
        assert self._asked, "nobody to wait for"
        had_room = time.monotonic()
        while True:
            ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=min(_POLL_S, _PATIENCE_S))
            if ready:
                return self._heard(ready[0])
            if self._some_have_room():
                had_room = time.monotonic()
            elif time.monotonic() - had_room > _PATIENCE_S:
                raise RecordError(
                    "no node of the Ray cluster has had room for a worker for "
                    f"{_PATIENCE_S / 60:.0f} minutes; bring nodes back and run the same command "
                    "again: what was scored is recorded"
                )

    def stop(self, worker: int) -> None:
        """Kill an actor, if it is there, and forget what it was asked."""
        actor = self._actors.pop(worker, None)
        for asked in (self._asked, self._unplaced):
            for answer in [one for one, whose in asked.items() if whose == worker]:
                del asked[answer]
        if actor is not None and ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):  # it may be gone already
                ray.kill(actor)

    def _heard(self, answer: Any) -> tuple[int, Answer]:
        worker = self._asked.pop(answer)
        try:
            told = heard(ray.get(answer))
        except ray.exceptions.RayTaskError:
            raise  # what was made can't be sent: a error of ours, with the worker's traceback
        except ray.exceptions.RayError as error:
            self.stop(worker)
            return worker, Lost(in_short(error))
        if isinstance(told, Broken):
            self.stop(worker)
            return worker, Lost(told.reason)
        result: Answer = told
        return worker, result

    def _some_have_room(self) -> bool:
        """Whether any of those that were asked something have a place."""
        if self._unplaced:
            placed, _ = ray.wait(
                list(self._unplaced), num_returns=len(self._unplaced), timeout=0, fetch_local=False
            )
            for one in placed:
                del self._unplaced[one]
        return not set(self._asked.values()) <= set(self._unplaced.values())


class RayPool:
    """Run jobs on a Ray cluster.

    Args:
        evaluator: What scores jobs in this process; not used.
        recipe: Tells how each worker makes one like it.
        address: ``auto`` for the cluster that this machine belongs to, ``host:port`` for one by its
            head, ``local`` to start one on this machine and end it afterwards.
        n_workers: How many workers; None for as many as the cluster holds now.
        devices_per_worker: GPUs of each; a fraction shares one. Where no node has a GPU, a worker
            has one CPU core for each of its threads instead.
        group_size: Most candidates run together.

    Raises:
        ConfigError: An option is invalid, or there is no such cluster.
    """

    def __init__(
        self,
        evaluator: Scorer,
        *,
        recipe: Callable[[], Recipe],
        address: str = "auto",
        n_workers: int | None = None,
        devices_per_worker: float = 1,
        group_size: int = 16,
    ) -> None:
        told: dict[str, object] = {"address": address, "n_workers": n_workers}
        told |= {"devices_per_worker": devices_per_worker, "group_size": group_size}
        if problems := ray_problems(told):
            raise ConfigError(problems)
        self._ours = join(address)
        try:
            made = recipe()
            needs = needs_of(made.device, made.threads, devices_per_worker)
            room = needs.room()
            crew = RayCrew(made, needs, n_workers or room)
            spread = WorkerSetup(min(crew.n_workers, room), needs.device, needs.threads)
            self._pool = CrewPool(crew, spread=spread, group_size=group_size)
        except BaseException:
            self._disconnect()
            raise

    @property
    def spread(self) -> WorkerSetup:
        """Who evaluates, as far as there is room now."""
        return self._pool.spread

    def evaluate(self, jobs: Sequence[Job]) -> Iterable[Evaluation]:
        """Run the jobs, spread over the cluster; give the evaluations in the jobs' order."""
        return self._pool.evaluate(jobs)

    def close(self) -> None:
        """End the workers, and the connection if it was made here."""
        self._pool.close()
        self._disconnect()

    def _disconnect(self) -> None:
        if self._ours:
            self._ours = False
            ray.shutdown()
