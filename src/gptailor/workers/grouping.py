"""Divide jobs among workers, so that shared prefixes stay together and work is even."""

import itertools
from collections.abc import Sequence

from gptailor.core.prefix_trie import in_order
from gptailor.core.trial import Job

__all__ = ["divided", "grouped"]


def divided(jobs: Sequence[Job], n_workers: int, *, group_size: int = 16) -> list[tuple[int, ...]]:
    """Divide jobs into `n_workers` groups, or a multiple of it; see `grouped`."""
    rounds = max(1, -(-len(jobs) // (n_workers * group_size)))
    return grouped(jobs, n_groups=n_workers * rounds, most=group_size)


def grouped(jobs: Sequence[Job], *, n_groups: int, most: int) -> list[tuple[int, ...]]:
    """Cut the jobs, in the order of their prefix trie, so that the costliest group is cheapest.

    A group's cost is what an engine runs for it: the examples whose scores are not known yet, times
    the layers of its trie. There may be `n_groups`, or as many as keep each to `most` jobs. Returns
    indices of the jobs, sorted in each group, and the groups by their first.

    Example:
        >>> from gptailor.core.tailoring import Tailoring
        >>> a, b = Tailoring.whole("base", 4), Tailoring.whole("math", 4)
        >>> grouped([Job(a, 8), Job(b, 8), Job(a, 8), Job(b, 8)], n_groups=2, most=16)
        [(0, 2), (1, 3)]
    """
    if not jobs:
        return []
    order, added = _in_order(jobs)
    alone = [_cost(jobs[index], 0) for index in order]
    allowed = max(n_groups, -(-len(jobs) // most))
    low, high = max(alone), sum(alone)
    while low < high:
        limit = (low + high) // 2
        if len(_filled(alone, added, limit, most)) <= allowed:
            high = limit
        else:
            low = limit + 1
    groups = [tuple(sorted(order[start:stop])) for start, stop in _filled(alone, added, high, most)]
    return sorted(groups)


def _in_order(jobs: Sequence[Job]) -> tuple[list[int], list[int]]:
    """The jobs' indices, and each job's cost after the one before it, in the order of the engine.

    Jobs on the same examples are neighbours, and among them those with a shared prefix.
    """
    alike: dict[tuple[str, int, int], list[int]] = {}
    for index, job in enumerate(jobs):
        alike.setdefault((job.split, job.n_known, job.n_examples), []).append(index)
    order, added = [], []
    for indices in alike.values():
        for position, n_shared in in_order([jobs[index].tailoring for index in indices]):
            order.append(indices[position])
            added.append(_cost(jobs[indices[position]], n_shared))
    return order, added


def _cost(job: Job, n_shared: int) -> int:
    """Examples to run (at least 1) times layers that are not shared."""
    return max(1, job.n_examples - job.n_known) * (len(job.tailoring.layers) - n_shared)


def _filled(
    alone: Sequence[int], added: Sequence[int], limit: int, most: int
) -> list[tuple[int, int]]:
    """Cut the jobs wherever the next one would exceed the limit; returns starts and stops."""
    cuts, cost = [0], alone[0]
    for index in range(1, len(alone)):
        cost += added[index]
        if cost > limit or index - cuts[-1] == most:
            cuts.append(index)
            cost = alone[index]
    return list(itertools.pairwise([*cuts, len(alone)]))
