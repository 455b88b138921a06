"""Leave-one-out ablation: the loss without one more layer, on the fewest examples.

An ablated candidate differs from the others by one layer, so a few examples, the same for all,
rank the layers. It is greedy removal (SLEB), made cheaper by cutting several layers a round.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence

import numpy as np

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.searchers.halving import Judge
from gptailor.searchers.initial_designs import Cuts
from gptailor.searchers.searcher import Group
from gptailor.searchers.space import Space, kept_positions

__all__ = ["ablate", "cut_designs"]


def ablate(
    judge: Judge, budget: float, start: Tailoring
) -> Generator[Group, tuple[Trial, ...], Cuts]:
    """Cut the layers whose absence costs least, round by round.

    The first round ablates every layer that may be cut; the next ones the better half of the layers
    that are left.

    Args:
        judge: Ranks the layers.
        budget: The most that ablations may cost, in the unit of `SearchContext.cost`; the less, the
            more layers a round cuts at once.
        start: The model whose layers are cut.

    Returns:
        The cuts found; none where nothing is cut, or the first round costs more than `budget`, or
        the family does not allow an ablated candidate, or all failed.
    """
    space, none = judge.context.space, ()
    n_trials = int(budget / judge.context.cost(judge.context.rungs[0]))
    layers = [layer for layer in kept_positions(start) if layer not in space.keep]
    n_cuts = len(start.layers) - space.n_kept
    half = max(n_cuts, len(layers) // 2)
    if n_cuts < 1 or len(layers) > n_trials:
        return none
    cuts: Cuts = none
    n_rounds = min(1 + (n_trials - len(layers)) // half, n_cuts)
    for part in np.array_split(np.arange(n_cuts), n_rounds):
        ablated = {layer: space.cut(start, (*cuts, layer)) for layer in layers}
        if not all(space.accepts(tailoring) for tailoring in ablated.values()):
            return none
        yield tuple(
            Proposal(tailoring, judge.context.rungs[0], f"ablation of layer {layer}")
            for layer, tailoring in ablated.items()
        )
        losses = judge.proxy_losses(ablated.values())
        if not losses:
            return none
        ranked = sorted(layers, key=lambda layer: losses.get(ablated[layer], np.inf))
        cuts = tuple(sorted((*cuts, *ranked[: len(part)])))
        layers = sorted(ranked[len(part) : len(part) + half])
    return cuts


def cut_designs(
    space: Space, starts: Sequence[Tailoring], cuts: Iterable[Cuts]
) -> Iterator[Tailoring]:
    """Models with sets of cuts, the likeliest first.

    Args:
        space: What is possible.
        starts: Models with more layers, the best first.
        cuts: Sets of cuts of the best one, the best first.
    """
    first, *others = cuts
    same = (space.cut(start, first) for start in starts)
    other = (space.cut(starts[0], each) for each in others)
    for source, n in ((same, 2), (other, 3), (same, None), (other, None)):
        sized = (each for each in itertools.islice(source, n) if len(each.layers) == space.n_kept)
        yield from filter(space.accepts, sized)
