"""What a search will cost, before it is begun: trials, tokens, memory, time.

The study is rehearsed with made-up scores, the speed of each kind of work is measured on this
machine, and the two are multiplied. Other processes are taken to be as fast as this one is with as
many threads, and to be slowed down by each other only where they have fewer cores than threads.
Knows nothing of records.
"""

import heapq
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from gptailor.app.assemble import Assembly
from gptailor.engine.batches import BATCH_TOKENS
from gptailor.engine.device import device_of
from gptailor.engine.engine import STATE_BYTES
from gptailor.forecast.dry_run import Rehearsal, Step, rehearse
from gptailor.forecast.memory import held_bytes, peak_bytes
from gptailor.forecast.speed import Speed, measure_speed
from gptailor.workers.pool import WorkerSetup

__all__ = ["Forecast", "forecast", "in_time", "seconds_of"]

_NUMBER_BYTES = 100  # of a score in the record, in the trial and in the searcher's history
_LOOSE_BYTES = 2**27  # what an allocator keeps beyond what is asked of it
_ROW_TOKENS = 256  # rows are packed to about this length, or to that of the longest passage


@dataclass(frozen=True, slots=True)
class Forecast:
    """The cost of a study.

    Args:
        n_trials: Evaluations.
        n_candidates: Distinct tailorings among them.
        layer_tokens: Tokens times layers to be run, after all sharing; members, choice and report
            included.
        shared: Share of the search's layer-tokens that prefixes and nested rungs save.
        seconds: Wall-clock time at the speed measured here, the start of workers aside.
        family_bytes: Memory of the members' weights.
        merged_bytes: Most memory of merged layers, in one process.
        peak_bytes: Most memory that a process that evaluates will hold; on a GPU, its tensors
            there.
    """

    n_trials: int
    n_candidates: int
    layer_tokens: int
    shared: float
    seconds: float
    family_bytes: int
    merged_bytes: int
    peak_bytes: int


def forecast(assembly: Assembly, spread: WorkerSetup | None = None) -> Forecast:
    """Measure the speed, rehearse the study, and add up.

    Args:
        assembly: Everything put together, on such a device as evaluations run on.
        spread: Who evaluates; None if it is this process.
    """
    with _threads(spread):
        speed = measure_speed(assembly)
    device = device_of(assembly.config.engine.device)
    held = held_bytes(device)
    rehearsal = rehearse(assembly, 1 if spread is None else spread.n_workers)
    steps = in_time(rehearsal.steps, speed, assembly.plan.timeout_s, spread)
    searched = [step for step in steps if step.phase == "search"]
    run = sum(step.work.layer_tokens for step in searched)
    alone = sum(step.alone for step in searched)
    grown = held + _growth(assembly, rehearsal)
    return Forecast(
        n_trials=sum(len(step.tailorings) for step in searched),
        n_candidates=len({each for step in searched for each in step.tailorings}),
        layer_tokens=sum(step.work.layer_tokens for step in steps),
        shared=1 - run / max(alone, 1),
        seconds=sum(seconds_of(step, speed, spread) for step in steps),
        family_bytes=assembly.family.nbytes,
        merged_bytes=rehearsal.merged_bytes,
        peak_bytes=max(peak_bytes(device), grown),
    )


@contextmanager
def _threads(spread: WorkerSetup | None) -> Iterator[None]:
    """As many threads as one worker has."""
    before = torch.get_num_threads()
    if spread is not None:
        torch.set_num_threads(spread.threads)
    yield
    torch.set_num_threads(before)


def seconds_of(step: Step, speed: Speed, spread: WorkerSetup | None) -> float:
    """What a step takes: each group goes to the worker that is free first."""
    if spread is None or not step.groups:
        return speed.seconds(step.work) + step.asking
    crowding = spread.crowding if len(step.groups) > 1 else 1.0
    free = [0.0] * spread.n_workers
    for work in step.groups:
        heapq.heapreplace(free, free[0] + speed.seconds(work) * crowding)
    return max(free) + step.asking


def in_time(
    steps: Sequence[Step], speed: Speed, timeout_s: float | None, spread: WorkerSetup | None = None
) -> list[Step]:
    """Leave out the steps of the search that are not begun within its time."""
    if timeout_s is None:
        return list(steps)
    left = []
    elapsed = 0.0
    for step in steps:
        if step.phase != "search" or elapsed < timeout_s:
            left.append(step)
        if step.phase == "search":
            elapsed += seconds_of(step, speed, spread)
    return left


def _growth(assembly: Assembly, rehearsal: Rehearsal) -> int:
    """Bytes beyond the members: merged layers, hidden states, masks, scores, work in hand."""
    family, rungs, sizes = assembly.family, assembly.plan.rungs, assembly.plan.sizes
    tokens = assembly.evaluator.tokens
    most = max(
        *(tokens("search", low, high) for low, high in itertools.pairwise((0, *rungs))),
        tokens("selection", 0, sizes["selection"]),
        tokens("test", 0, sizes["test"]),
    )
    width = int(family.config.hidden_size) * family.dtype.itemsize
    n_tokens = min(most, STATE_BYTES // width)
    states = n_tokens * width * (1 + rehearsal.n_states)  # one more for the embedded tokens
    row = max(_ROW_TOKENS, _longest(assembly))
    masks = n_tokens * row * family.dtype.itemsize * len(set(family.kinds))
    members = assembly.config.engine.member_bytes or 0  # those in files, brought in when needed
    numbers = rehearsal.n_numbers * _NUMBER_BYTES
    widths = max(family.layer_parameters) // int(family.config.hidden_size)  # of all products
    batch = 2 * BATCH_TOKENS * widths * family.dtype.itemsize
    kept = rehearsal.merged_bytes + states + masks + numbers + members
    return kept + batch + _LOOSE_BYTES


def _longest(assembly: Assembly) -> int:
    """Tokens of the longest passage."""
    return max(
        len(passage.context) + sum(map(len, passage.continuations))
        for parts in assembly.tasks.values()
        for task in (parts.search, parts.selection, parts.test)
        for example in range(task.n_examples)
        for passage in task.passages(example)
    )
