"""Evaluations on this machine: in this process, or in several."""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

from gptailor.core.params import Range
from gptailor.core.trial import Evaluation, Job
from gptailor.errors import ConfigError
from gptailor.workers.pool import Evaluator, EvaluatorFactory, WorkerPool, WorkerSetup
from gptailor.workers.processes import ProcessBackend, Slot
from gptailor.workers.supervisor import SupervisedPool

__all__ = ["LocalPool", "local_pool", "local_slots"]

_MAX_PROCESSES = 256


class LocalPool:
    """Run groups of jobs in this process, one after another.

    Args:
        evaluator: Scores the candidates.
        group_size: Most candidates run together; fewer share less and lose less at a kill.
    """

    def __init__(self, evaluator: Evaluator, *, group_size: int = 16) -> None:
        self._evaluator, self._group_size = evaluator, group_size

    @property
    def setup(self) -> None:
        """No other process evaluates."""

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run the jobs, `group_size` at a time, in order."""
        for start in range(0, len(jobs), self._group_size):
            yield from self._evaluator.evaluate(jobs[start : start + self._group_size])

    def close(self) -> None:
        """There is nothing to close."""


def local_pool(
    evaluator: Evaluator,
    *,
    get_factory: Callable[[], EvaluatorFactory],
    group_size: Annotated[int, Range(1, math.inf)] = 16,
    n_workers: Annotated[int | None, Range(1, math.inf)] = None,
) -> WorkerPool:
    """Make the pool of this machine.

    Args:
        evaluator: Scores candidates in this process.
        get_factory: Returns how another process makes one like it; not called if there is none.
        group_size: Most candidates run together.
        n_workers: How many processes: on a machine with GPUs one for each GPU, else they share the
            machine's cores. None runs everything in this process.

    Raises:
        ConfigError: There are fewer devices than workers.
    """
    if n_workers is None:
        return LocalPool(evaluator, group_size=group_size)
    import torch  # slow to import, and not needed by a pool in this process

    factory = get_factory()
    slots = local_slots(
        factory.device,
        n_workers,
        threads=factory.threads or max(1, torch.get_num_threads() // n_workers),
        n_gpus=torch.cuda.device_count() if torch.cuda.is_available() else 0,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )
    device, threads = slots[0].device, slots[0].threads
    crowding = n_workers * threads / (os.cpu_count() or 1) if device == "cpu" else 1.0
    setup = WorkerSetup(n_workers, device, threads, max(1.0, crowding))
    return SupervisedPool(ProcessBackend(factory, slots), setup=setup, group_size=group_size)


def local_slots(
    device: str, n_workers: int, *, threads: int, n_gpus: int, visible: str | None
) -> list[Slot]:
    """Give each worker a device of this machine: its own GPU, or a share of the cores.

    PyTorch sees `n_gpus` here, those that `visible` names: ``CUDA_VISIBLE_DEVICES``, None if unset.

    Example:
        >>> slots = local_slots("auto", 2, threads=4, n_gpus=3, visible="5,6,7")
        >>> [(slot.device, dict(slot.environment)) for slot in slots]
        [('cuda', {'CUDA_VISIBLE_DEVICES': '5'}), ('cuda', {'CUDA_VISIBLE_DEVICES': '6'})]
    """
    kind, _, chosen = device.partition(":")
    if kind == "cuda" or (kind == "auto" and n_gpus):
        names = [str(gpu) for gpu in range(n_gpus)]
        if visible is not None:  # a name is a number or a UUID; what follows a wrong one is unseen
            names = [name.strip() for name in visible.split(",")][:n_gpus]
        usable = names[int(chosen) : int(chosen) + 1] if chosen else names
        if n_workers > len(usable):
            asked = f"engine.device is {device}, which names" if chosen else "PyTorch sees"
            remedy = "engine.device to auto or cuda for all GPUs, or " if chosen else ""
            raise ConfigError(
                f"workers.options.n_workers: {n_workers} workers need a GPU each, and {asked} "
                f"{len(usable)}; ask for {len(usable)}, or set {remedy}engine.device to cpu"
            )
        # each sees one GPU only: a process uses some memory on every GPU that it touches
        return [Slot("cuda", threads, {"CUDA_VISIBLE_DEVICES": gpu}) for gpu in usable[:n_workers]]
    if kind == "mps" and n_workers > 1:
        raise ConfigError("workers.options.n_workers: there is one mps device; say 1, or none")
    if n_workers > _MAX_PROCESSES:
        raise ConfigError(
            f"workers.options.n_workers: {n_workers} processes are more than one machine runs; "
            f"say {_MAX_PROCESSES} or fewer"
        )
    return [Slot("cpu" if kind == "auto" else kind, threads)] * n_workers
