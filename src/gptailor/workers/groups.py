"""Divide jobs among workers: what starts alike goes to one, and all have as much to do.

Knows nothing of workers; counts layers times examples.
"""

import itertools
from collections.abc import Sequence
from typing import Any

from gptailor.trial import Job

__all__ = ["grouped"]

Path = tuple[int, ...]


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
        >>> from gptailor.tailoring import Tailoring
        >>> a, b = Tailoring.whole("base", 4), Tailoring.whole("math", 4)
        >>> grouped([Job(a, 8), Job(b, 8), Job(a, 8), Job(b, 8)], n_groups=2, most=16)
        [(0, 2), (1, 3)]
    """
    if not jobs:
        return []
    paths = _paths(jobs)
    order = sorted(range(len(jobs)), key=lambda index: (paths[index], index))
    alone = [_examples(jobs[index]) * _n_layers(jobs[index]) for index in order]
    behind = alone[:1]  # what a job adds behind the one before it
    for before, index in itertools.pairwise(order):
        shared = max(0, _common(paths[before], paths[index]) - 2)  # work and embedding aside
        behind.append(_examples(jobs[index]) * (_n_layers(jobs[index]) - shared))
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


def _examples(job: Job) -> int:
    """Examples to run; one at least, so that no job is free."""
    return max(1, job.n_examples - job.n_known)


def _n_layers(job: Job) -> int:
    return len(job.tailoring.layers)


def _paths(jobs: Sequence[Job]) -> list[Path]:
    """Each job's way down the trie, a node told by the first job that came through it.

    The first node is the work (the examples that are run), the second the embedding.
    """
    trie: dict[Any, Any] = {}
    paths = []
    for index, job in enumerate(jobs):
        steps = [
            (job.part, job.n_known, job.n_examples),
            job.tailoring.embedding,
            *job.tailoring.layers,
        ]
        below, path = trie, []
        for step in steps:
            first, below = below.setdefault(step, (index, {}))
            path.append(first)
        paths.append(tuple(path))
    return paths


def _common(left: Path, right: Path) -> int:
    """Nodes that two ways have in common."""
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return sum(1 for _ in same)


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
