"""Workers on the nodes of a Ray cluster.

Each worker is an actor with a device of its own, which reads the members on its own node: only
tailorings and scores are sent. Lost actors are restarted by `SupervisedPool`, not by Ray, so that
the jobs that killed them are counted.
"""

import contextlib
import math
import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from gptailor.core.params import Range
from gptailor.core.trial import Job
from gptailor.errors import ConfigError, RecordError
from gptailor.workers.pool import Evaluator, EvaluatorFactory, WorkerSetup
from gptailor.workers.supervisor import Answer, Lost, SupervisedPool
from gptailor.workers.worker import Worker, unwrapped

try:
    import ray
    import ray.exceptions
except ImportError as missing:
    raise ConfigError(
        f"the worker pool 'ray' needs a library that is not installed ({missing.name}); "
        "run: pip install 'gptailor[ray]'"
    ) from None

from gptailor.workers.ray.cluster import FINEST_SHARE, Needs, in_short, join, needs_of

__all__ = ["RayBackend", "ray_pool"]

_PATIENCE_S = 600.0  # while no node has room for any worker
_POLL_S = 5.0


class RayBackend:
    """Start actors, send jobs to them and receive their answers."""

    def __init__(self, factory: EvaluatorFactory, needs: Needs, n_workers: int) -> None:
        self._factory, self._needs, self._n_workers = factory, needs, n_workers
        self._make = ray.remote(
            num_cpus=0 if needs.gpus else needs.threads,
            num_gpus=needs.gpus,
            max_restarts=0,
            max_task_retries=0,
            scheduling_strategy="SPREAD",
        )(Worker)
        self._actors: dict[int, Any] = {}
        self._unstarted: dict[Any, int] = {}  # actors, by what is ready once they run
        self._asked: dict[Any, int] = {}  # answers that are awaited

    @property
    def n_workers(self) -> int:
        """How many there may be."""
        return self._n_workers

    def start(self, worker: int) -> None:
        """Ask for an actor anywhere in the cluster; it makes its evaluator once it runs."""
        actor = self._make.remote(self._factory, self._needs.device, self._needs.threads)
        self._actors[worker] = actor
        self._unstarted[actor.__ray_ready__.remote()] = worker
        self._asked[actor.begin.remote()] = worker

    def submit(self, worker: int, jobs: Sequence[Job]) -> None:
        """Send jobs to an actor; `wait` reports it if it was lost."""
        self._asked[self._actors[worker].evaluate.remote(list(jobs))] = worker

    def wait(self) -> tuple[int, Answer]:
        """Wait for an actor to answer or be lost; RecordError if none has had room for minutes."""
        assert self._asked, "no actor to wait for"
        had_room = time.monotonic()
        while True:
            ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=min(_POLL_S, _PATIENCE_S))
            if ready:
                return self._answer(ready[0])
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
        for asked in (self._asked, self._unstarted):
            for answer in [one for one, whose in asked.items() if whose == worker]:
                del asked[answer]
        if actor is not None and ray.is_initialized():
            with contextlib.suppress(ray.exceptions.RayError):  # it may be gone already
                ray.kill(actor)

    def _answer(self, reference: Any) -> tuple[int, Answer]:
        worker = self._asked.pop(reference)
        try:
            answer: Answer = unwrapped(ray.get(reference))
        except ray.exceptions.RayTaskError:
            raise  # the answer can't be pickled: our error, with the worker's traceback
        except ray.exceptions.RayError as error:
            answer = Lost(in_short(error))
        if isinstance(answer, Lost):
            self.stop(worker)
        return worker, answer

    def _some_have_room(self) -> bool:
        """Whether the cluster has started any of those whose answers are awaited."""
        waiting = list(self._unstarted)
        if waiting:
            started, _ = ray.wait(waiting, num_returns=len(waiting), timeout=0, fetch_local=False)
            for one in started:
                del self._unstarted[one]
        return not set(self._asked.values()) <= set(self._unstarted.values())


def ray_pool(  # an option each
    evaluator: Evaluator,
    *,
    get_factory: Callable[[], EvaluatorFactory],
    address: str = "auto",
    n_workers: Annotated[int | None, Range(1, math.inf)] = None,
    devices_per_worker: Annotated[float, Range(0, 1)] = 1,
    group_size: Annotated[int, Range(1, math.inf)] = 16,
) -> SupervisedPool:
    """Make the pool of a Ray cluster.

    Args:
        evaluator: Scores candidates in this process; not used.
        get_factory: Returns how each worker makes one like it.
        address: ``auto`` for the cluster that this machine belongs to, ``host:port`` for one by its
            head, ``local`` to start one on this machine and end it afterwards.
        n_workers: How many workers; None for as many as the cluster has room for now.
        devices_per_worker: GPUs of each; a fraction shares one. Where no node has a GPU, a worker
            has one CPU core for each of its threads instead.
        group_size: Most candidates run together.

    Raises:
        ConfigError: The share is too small, there is no such cluster, or it has no room.
    """
    if 0 < devices_per_worker < FINEST_SHARE:
        raise ConfigError(
            f"workers.options.devices_per_worker: must be 0 or {FINEST_SHARE:g} to 1, not "
            f"{devices_per_worker}"
        )
    with contextlib.ExitStack() as undo:
        if join(address):
            undo.callback(ray.shutdown)
        factory = get_factory()
        needs = needs_of(factory.device, factory.threads, devices_per_worker)
        room = needs.room()
        n_workers = n_workers or room
        return SupervisedPool(
            RayBackend(factory, needs, n_workers),
            setup=WorkerSetup(min(n_workers, room), needs.device, needs.threads),
            group_size=group_size,
            on_close=undo.pop_all().close,
        )
