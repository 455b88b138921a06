"""Workers on the nodes of a Ray cluster: the door to Ray.

Each worker is an actor with a device of its own. It reads the members from the paths of the config,
as they are on its node, and holds their digests against those of the machine that searches: weights
never go through the object store, and what is sent for a trial is its tailoring and its scores.
Actors are not restarted by Ray but by us, so that a job that kills its worker is counted. Knows
nothing of models or tasks.
"""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray
import ray.exceptions

from gptailor.errors import ConfigError, RecordError
from gptailor.trial import Evaluation, Job
from gptailor.workers.crew import Answer, CrewPool, Lost, Ready, count_of
from gptailor.workers.messages import Broken, Refused, guarded
from gptailor.workers.pool import Recipe, Scorer

__all__ = ["RayCrew", "RayPool", "RayWorker"]

_CONNECT_S = 5.0  # for a head that does not answer: Ray itself would try for minutes
_PATIENCE_S = 600.0  # with no worker placed anywhere
_LONGEST = 240  # characters of Ray's own words


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

    def begin(self) -> Ready | Refused | Broken:
        """Make the scorer."""
        made = guarded(partial(self._recipe, device=self._device, threads=self._threads))
        if isinstance(made, Refused | Broken):
            return made
        self._scorer = made
        return Ready()

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation] | Refused | Broken:
        """Score jobs."""
        scorer = self._scorer
        assert scorer is not None, "asked before it was ready"
        return guarded(partial(scorer.evaluate, jobs))


@dataclass(frozen=True, slots=True)
class _Needs:
    """What one actor asks of a node."""

    device: str
    threads: int
    gpus: float

    @property
    def resources(self) -> dict[str, float]:
        """As Ray counts them."""
        return {"GPU": self.gpus} if self.gpus else {"CPU": float(self.threads)}

    def room(self) -> int:
        """How many such actors the cluster's nodes hold."""
        ((kind, wanted),) = self.resources.items()
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        return sum(int(there.get(kind, 0.0) / wanted + 1e-9) for there in nodes)


class RayCrew:
    """Start, feed and hear actors.

    Args:
        recipe: How each of them makes its scorer.
        needs: What each of them is given.
        n_workers: How many there may be.
    """

    def __init__(self, recipe: Recipe, needs: _Needs, n_workers: int) -> None:
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
        self._last_room = time.monotonic()

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
        """Send jobs to an actor."""
        self._asked[self._actors[worker].evaluate.remote(list(jobs))] = worker

    def wait(self) -> tuple[int, Answer]:
        """Wait for the next actor that answers or is lost.

        Raises:
            RecordError: For ten minutes no node had room for any worker.
        """
        assert self._asked, "nobody to wait for"
        while True:
            ready, _ = ray.wait(list(self._asked), num_returns=1, timeout=5.0)
            if ready:
                return self._heard(ready[0])
            self._lose_patience()

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
            told = ray.get(answer)
        except ray.exceptions.RayTaskError:
            raise  # a fault of ours, with the worker's traceback
        except ray.exceptions.RayError as fault:
            self.stop(worker)
            return worker, Lost(_in_short(fault))
        if isinstance(told, Broken):
            self.stop(worker)
            return worker, Lost(told.reason)
        if isinstance(told, Refused):
            raise told.fault()
        result: Answer = told
        return worker, result

    def _lose_patience(self) -> None:
        """Stop waiting for a cluster that has had no room for anybody for long."""
        if self._unplaced:
            placed, _ = ray.wait(
                list(self._unplaced), num_returns=len(self._unplaced), timeout=0, fetch_local=False
            )
            for one in placed:
                del self._unplaced[one]
        if set(self._asked.values()) - set(self._unplaced.values()):
            self._last_room = time.monotonic()
        elif time.monotonic() - self._last_room > _PATIENCE_S:
            raise RecordError(
                "no node of the Ray cluster has had room for a worker for "
                f"{_PATIENCE_S / 60:.0f} minutes; bring nodes back and run the same command again: "
                "what was scored is recorded"
            )


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
        ConfigError: An option is at fault, or there is no such cluster.
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
        share = _device_share(devices_per_worker)
        count_of("group_size", group_size)
        if n_workers is not None:
            count_of("n_workers", n_workers)
        self._ours = _connect(address)
        try:
            told = recipe()
            needs = _needs(told, share)
            crew = RayCrew(told, needs, n_workers or _room(needs))
            self._pool = CrewPool(crew, group_size=group_size)
        except BaseException:
            self._disconnect()
            raise

    def evaluate(self, jobs: Sequence[Job]) -> Any:
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


def _device_share(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ConfigError(
            "workers.options.devices_per_worker: must be 1, a fraction of 1 to share a GPU, or 0 "
            f"for none, not {value!r}: a worker runs its candidates on one device"
        )
    return float(value)


def _needs(recipe: Recipe, share: float) -> _Needs:
    """What each worker asks for, on this cluster."""
    kind, _, number = recipe.device.partition(":")
    if number or kind == "mps":
        raise ConfigError(
            f"engine.device: {recipe.device} names a device of one machine; with workers on Ray "
            "say auto, cuda or cpu"
        )
    threads = recipe.threads or 1
    has_gpus = ray.cluster_resources().get("GPU", 0.0) > 0
    if kind == "cuda" and not (has_gpus and share):
        raise ConfigError(
            "engine.device: cuda is asked for, but "
            + ("workers.options.devices_per_worker is 0" if has_gpus else "no node has a GPU")
            + "; say auto or cpu"
        )
    if kind != "cpu" and has_gpus and share:
        return _Needs("cuda", threads, share)
    return _Needs("cpu", threads, 0.0)


def _room(needs: _Needs) -> int:
    room = needs.room()
    if room == 0:
        wanted = " and ".join(f"{count:g} {kind}" for kind, count in needs.resources.items())
        raise ConfigError(
            f"workers: no node of the Ray cluster has {wanted} for a worker; lower engine.threads "
            "or workers.options.devices_per_worker, or add nodes"
        )
    return room


def _connect(address: object) -> bool:
    """Join a cluster, unless this process has joined one already; whether it was done here."""
    if not isinstance(address, str) or not address or "://" in address:
        raise ConfigError(
            "workers.options.address: must be auto, local, or the host:port of a cluster's head, "
            f"not {address!r}"
        )
    if ray.is_initialized():
        return False
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", address)  # as Ray reads it
    if address not in ("auto", "local"):
        _refuse_unreachable(address)
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster started here reports nothing
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        quiet["include_dashboard"] = False
    try:
        ray.init(address=address, **quiet)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as fault:
        raise ConfigError(
            f"workers.options.address: no Ray cluster could be joined at {address!r} "
            f"({_in_short(fault)}); start one with 'ray start --head', or say address: local"
        ) from None
    return True


def _refuse_unreachable(address: str) -> None:
    """Tell at once what Ray would find out in minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(
            "workers.options.address: must be auto, local, or the host:port of a cluster's head, "
            f"not {address!r}"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_S).close()
    except OSError as fault:
        raise ConfigError(
            f"workers.options.address: {address} can't be reached ({fault}); give the host:port of "
            "the head of a running Ray cluster, 6379 unless it was started with another"
        ) from None


def _in_short(fault: BaseException) -> str:
    """The line of what Ray says that tells why."""
    lines = [line.strip() for line in str(fault).splitlines() if line.strip()]
    causes = [line for line in lines if line.startswith("The actor ") and " because " in line]
    told = next(iter(causes or lines), type(fault).__name__)
    return told[:_LONGEST].rstrip(".: ")
