"""Divide jobs among workers: what starts alike goes to one, and all have as much to do.

Knows nothing of workers; counts layers times examples.
"""

import itertools
from collections.abc import Sequence

from gptailor.core.prefix_trie import in_order
from gptailor.core.trial import Job

__all__ = ["divided", "grouped"]


def divided(jobs: Sequence[Job], n_workers: int, *, group_size: int = 16) -> list[tuple[int, ...]]:
    """Divide jobs into as many groups as there are workers, or several rounds of them.

    Args:
        jobs: In any order.
        n_workers: How many run at one time.
        group_size: Jobs in a group at most.

    Returns:
        As `grouped` does.
    """
    rounds = max(1, -(-len(jobs) // (n_workers * group_size)))
    return grouped(jobs, n_groups=n_workers * rounds, most=group_size)


def grouped(jobs: Sequence[Job], *, n_groups: int, most: int) -> list[tuple[int, ...]]:
    """Divide jobs into groups that are runs of their prefix trie, the costliest as cheap as can be.

    What a group costs is what an engine runs for it: the examples that are not known yet, times
    the layers of its trie.

    Args:
        jobs: In any order.
        n_groups: How many groups there may be; more if `most` asks for more.
        most: Jobs in a group at most.

    Returns:
        Indices of the jobs; every group rising, the groups by their first.

    Example:
        >>> from gptailor.core.tailoring import Tailoring
        >>> a, b = Tailoring.whole("base", 4), Tailoring.whole("math", 4)
        >>> grouped([Job(a, 8), Job(b, 8), Job(a, 8), Job(b, 8)], n_groups=2, most=16)
        [(0, 2), (1, 3)]
    """
    if not jobs:
        return []
    order, behind = _row(jobs)
    alone = [_cost(jobs[index], 0) for index in order]
    allowed = max(n_groups, -(-len(jobs) // most))
    low, high = max(alone), sum(alone)
    while low < high:
        limit = (low + high) // 2
        if len(_filled(alone, behind, limit, most)) <= allowed:
            high = limit
        else:
            low = limit + 1
    groups = [
        tuple(sorted(order[start:stop])) for start, stop in _filled(alone, behind, high, most)
    ]
    return sorted(groups)


def _row(jobs: Sequence[Job]) -> tuple[list[int], list[int]]:
    """All jobs in the order in which engines run them, and what each adds behind the last.

    Those that run the same examples stand side by side, and among them those that start alike.
    """
    works: dict[tuple[str, int, int], list[int]] = {}
    for index, job in enumerate(jobs):
        works.setdefault((job.split, job.n_known, job.n_examples), []).append(index)
    order, behind = [], []
    for indices in works.values():
        for place, shared in in_order([jobs[index].tailoring for index in indices]):
            order.append(indices[place])
            behind.append(_cost(jobs[indices[place]], shared))
    return order, behind


def _cost(job: Job, shared: int) -> int:
    """Examples to run times layers that are not shared; no job is free."""
    n_examples = max(1, job.n_examples - job.n_known)
    return n_examples * (len(job.tailoring.layers) - shared)


def _filled(
    alone: Sequence[int], behind: Sequence[int], limit: int, most: int
) -> list[tuple[int, int]]:
    """Cut a row of jobs wherever the next one would cost more than the limit; starts and stops."""
    cuts, cost = [0], 0
    for place in range(len(alone)):
        full = place - cuts[-1] == most
        if place > cuts[-1] and (full or cost + behind[place] > limit):
            cuts.append(place)
        cost = alone[place] if place == cuts[-1] else cost + behind[place]
    return list(itertools.pairwise([*cuts, len(alone)]))
