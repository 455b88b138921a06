"""Evaluations on this machine: in this process, or in several.

In this process is the common case. Several processes serve several GPUs, or share the processor's
cores, and outlive what kills one of them. Knows nothing of models or tasks.
"""

import os
from collections.abc import Callable, Iterator, Sequence

from gptailor.errors import ConfigError
from gptailor.trial import Evaluation, Job
from gptailor.workers.crew import CrewPool, count_of
from gptailor.workers.pool import Recipe, Scorer, WorkerPool
from gptailor.workers.processes import Place, ProcessCrew

__all__ = ["LocalPool", "local_pool"]

_MOST = 256  # processes


class LocalPool:
    """Run every group of jobs at once, in this process.

    Args:
        evaluator: What scores jobs.
        group_size: Most candidates run together; fewer share less and lose less at a kill.

    Raises:
        ConfigError: The group size is not a whole number of 1 or more.
    """

    def __init__(self, evaluator: Scorer, *, group_size: int = 16) -> None:
        self._evaluator = evaluator
        self._group_size = count_of("group_size", group_size)

    def evaluate(self, jobs: Sequence[Job]) -> Iterator[Evaluation]:
        """Run the jobs, `group_size` at a time, in order."""
        for start in range(0, len(jobs), self._group_size):
            yield from self._evaluator.evaluate(jobs[start : start + self._group_size])

    def close(self) -> None:
        """Nothing to let go of."""


def local_pool(
    evaluator: Scorer,
    *,
    recipe: Callable[[], Recipe],
    group_size: int = 16,
    n_workers: int | None = None,
) -> WorkerPool:
    """Make the pool of this machine.

    Args:
        evaluator: What scores jobs in this process.
        recipe: Tells how another process makes one like it; not asked if there is none.
        group_size: Most candidates run together.
        n_workers: How many processes: on a machine with GPUs one for each GPU, else they share the
            processor's cores. None runs everything in this process.

    Raises:
        ConfigError: An option is at fault, or there are fewer devices than workers.
    """
    if n_workers is None:
        return LocalPool(evaluator, group_size=group_size)
    count_of("n_workers", n_workers)
    told = recipe()
    return CrewPool(ProcessCrew(told, _places(told, n_workers)), group_size=group_size)


def _places(recipe: Recipe, n_workers: int) -> list[Place]:
    """A place for each worker."""
    import torch  # slow to import, and not needed by a pool in this process

    kind = recipe.device.partition(":")[0]
    threads = recipe.threads or max(1, torch.get_num_threads() // n_workers)
    if kind == "cuda":
        return [
            Place("cuda", threads, {"CUDA_VISIBLE_DEVICES": gpu})
            for gpu in _gpus(recipe.device, torch.cuda.device_count(), n_workers)
        ]
    if kind == "mps" and n_workers > 1:
        raise ConfigError("workers.options.n_workers: there is one mps device; say 1, or none")
    if n_workers > _MOST:
        raise ConfigError(
            f"workers.options.n_workers: {n_workers} processes are more than one machine runs; "
            f"say {_MOST} or fewer"
        )
    return [Place(recipe.device, threads)] * n_workers


def _gpus(device: str, n_gpus: int, n_workers: int) -> list[str]:
    """What names each worker's GPU in its environment."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [str(gpu) for gpu in range(n_gpus)] if named is None else named.split(",")[:n_gpus]
    _, _, chosen = device.partition(":")
    usable = names if not chosen else names[int(chosen) : int(chosen) + 1]
    if n_workers > len(usable):
        what = "PyTorch sees" if not chosen else f"engine.device is {device}, which names"
        raise ConfigError(
            f"workers.options.n_workers: {n_workers} workers need a GPU each, and {what} "
            f"{len(usable)}; ask for {len(usable)}, or set engine.device to cuda or cpu"
        )
    return usable[:n_workers]
