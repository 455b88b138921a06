"""Probes: what is lost when one layer more is cut, on the fewest examples.

A probe differs from its neighbours by one layer, so a few examples, the same for all, tell which
layers are missed least; this is greedy removal, made cheap by cutting several a round. Knows
nothing of sources: all layers are the base's.
"""

import itertools
from collections.abc import Generator, Iterable, Iterator

import numpy as np

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Proposal, Trial
from gptailor.searchers.ask_tell import Group
from gptailor.searchers.halving import Judge
from gptailor.searchers.initial_designs import Cuts, mean_merges
from gptailor.searchers.space import Space

__all__ = ["probe", "probed_designs"]


def probe(space: Space, judge: Judge, n_trials: int) -> Generator[Group, tuple[Trial, ...], Cuts]:
    """Cut what is missed least, round by round.

    The first round tries every layer, the next ones the better half of them that is still there.

    Args:
        space: What may be proposed.
        judge: Tells losses.
        n_trials: The most probes; with fewer of them a round cuts more layers at once.

    Returns:
        The cuts found; none where there is nothing to choose, or one round alone costs too much,
        or the family does not allow the probes.
    """
    layers, none = list(space.free), ()
    half = max(space.n_removed, len(layers) // 2)
    if space.n_removed < 2 or len(layers) > n_trials:
        return none
    cuts: Cuts = none
    n_rounds = min(1 + (n_trials - len(layers)) // half, space.n_removed)
    for part in np.array_split(np.arange(space.n_removed), n_rounds):
        probes = {layer: space.uniform((*cuts, layer)) for layer in layers}
        if not all(space.accepts(tailoring) for tailoring in probes.values()):
            return none
        yield tuple(
            Proposal(tailoring, judge.rungs[0], f"probe of layer {layer}")
            for layer, tailoring in probes.items()
        )
        losses = judge.proxy_losses(probes.values())
        if not losses:
            return none
        ranked = sorted(probes, key=lambda layer: losses.get(probes[layer], np.inf))
        cuts = tuple(sorted((*cuts, *ranked[: len(part)])))
        layers = sorted(ranked[len(part) : len(part) + half])
    return cuts


def probed_designs(space: Space, cuts: Iterable[Cuts]) -> Iterator[Tailoring]:
    """Candidates with good cuts: most of them the base's, some of the first cuts another's.

    Args:
        space: What may be proposed.
        cuts: The best first, then others that may be as good.
    """
    first, *others = cuts
    base = (space.uniform(each) for each in (first, *others))
    variants = (space.uniform(first, (name,)) for name in space.variants)
    merges = mean_merges(space, first)
    for source, n in ((base, 1), (merges, 1), (base, 3), (variants, None), (base, None)):
        yield from (design for design in itertools.islice(source, n) if space.accepts(design))
