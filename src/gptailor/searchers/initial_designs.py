"""First candidates that need no scores: late blocks, the paper's initial designs, plain merges.

Nothing here is learned; a search starts from these and does better.
"""

import itertools
from collections.abc import Iterable, Iterator

from numpy.random import Generator

from gptailor.core.merge_spec import merge_spec
from gptailor.core.tailoring import Tailoring
from gptailor.searchers.space import Space

__all__ = [
    "Cuts",
    "first_designs",
    "late_blocks",
    "paper_cuts",
    "paper_designs",
    "patterns",
]

_SCALES = (0.3, 0.5, 0.6, 0.7, 0.8, 1.0)  # of the GPTailor reference code
_ALL_SUBSETS = 4  # variants up to which every subset of them is a pattern: 2^4 - 1

Cuts = tuple[int, ...]


def late_blocks(space: Space) -> list[Cuts]:
    """Blocks of neighbouring layers, the latest first, the last layer kept if it can be.

    Late middle layers change their input least, so what follows them is disturbed least: Gromov et
    al. 2024, https://arxiv.org/abs/2403.17887.
    """
    free = space.free
    if free and free[-1] == space.n_layers - 1 and len(free) > space.n_removed:
        free = free[:-1]
    last = len(free) - space.n_removed
    step = max(1, space.n_removed // 3)
    starts = range(last, -1, -step) if space.n_removed else (0,)
    return [free[start : start + space.n_removed] for start in starts]


def paper_cuts(space: Space, rng: Generator) -> list[Cuts]:
    """The three sets of cuts that GPTailor starts from.

    Late layers first; from the middle outward; alternating between late and early. The first and
    the last layer only where nothing else is left. *Differs from the paper:* drawn from `rng`.
    """
    middle, end = space.n_layers // 2, space.n_layers - 1
    high = _shuffled(range(middle, end), rng)
    low = _shuffled(range(1, middle), rng)
    near = _shuffled(range(max(1, middle - 3), min(end, middle + 4)), rng)
    far = _shuffled((layer for layer in range(1, end) if layer not in near), rng)
    pairs = itertools.zip_longest(high, low)
    alternating = [layer for pair in pairs for layer in pair if layer is not None]
    orders = ([*high, *low], [*near, *far], alternating)
    return list(dict.fromkeys(_first_free(space, order) for order in orders))


def paper_designs(space: Space, rng: Generator) -> Iterator[Tailoring]:
    """GPTailor's initial designs: each of its cuts with every layer treated alike.

    For each of the three sets of cuts: the base's layers; each variant's; and each set of two or
    more variants merged at six scales. *Differs from the paper:* any number of variants (beyond
    four: pairs and all, not every subset), every merge method of the space, and nothing twice.
    """
    seen: set[Tailoring] = set()
    for pattern, cuts in itertools.product(patterns(space), paper_cuts(space, rng)):
        for tailoring in _treated(space, cuts, pattern):
            if tailoring not in seen and space.accepts(tailoring):
                seen.add(tailoring)
                yield tailoring


def _mean_merges(space: Space, cuts: Cuts) -> Iterator[Tailoring]:
    """All variants merged in equal parts, once a merge method."""
    for method in space.methods if space.merges else ():
        declared = merge_spec(method)
        members = space.variants[: declared.max_sources]
        params = declared.scaled(1.0 / len(members))
        yield space.uniform(cuts, members, method, **params)


def first_designs(space: Space, rng: Generator) -> Iterator[Tailoring]:
    """Candidates to start a search with, the likeliest first and without end, nothing refused.

    The base, each variant and their mean without a late block; the base without other blocks and
    without each of the paper's sets of cuts; then random ones.
    """
    for tailoring in _informed(space, rng):
        if space.accepts(tailoring):
            yield tailoring
    while True:
        yield space.random(rng)


def _informed(space: Space, rng: Generator) -> Iterator[Tailoring]:
    blocks = late_blocks(space)
    yield space.uniform(blocks[0])
    for variant in space.variants:
        yield space.uniform(blocks[0], (variant,))
    yield from _mean_merges(space, blocks[0])
    for cuts in [*blocks[1:4], *paper_cuts(space, rng)]:
        yield space.uniform(cuts)


def patterns(space: Space) -> list[tuple[str, ...]]:
    """Which variants may be used together: none, each, and the sets that can be merged.

    Beyond four variants only pairs and all of them are sets: their number would double each time.
    """
    names = space.variants
    sizes: Iterable[int] = range(2, len(names) + 1)
    if len(names) > _ALL_SUBSETS:
        sizes = (2, len(names))
    sets = [members for size in sizes for members in itertools.combinations(names, size)]
    return [(), *((name,) for name in names), *(sets if space.merges else [])]


def _treated(space: Space, cuts: Cuts, members: tuple[str, ...]) -> Iterator[Tailoring]:
    if len(members) < 2:
        yield space.uniform(cuts, members)
        return
    for method in space.methods_for(len(members)):
        declared = merge_spec(method)
        for scale in _SCALES if declared.scale else (1.0,):
            yield space.uniform(cuts, members, method, **declared.scaled(scale))


def _first_free(space: Space, order: Iterable[int]) -> Cuts:
    ordered = [layer for layer in order if layer not in space.keep]
    rest = [layer for layer in (space.n_layers - 1, 0) if layer in space.free]
    return tuple(sorted([*ordered, *rest][: space.n_removed]))


def _shuffled(layers: Iterable[int], rng: Generator) -> list[int]:
    return [int(layer) for layer in rng.permutation(list(layers))]
