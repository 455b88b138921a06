"""EvoPress: an evolution of which layers are cut, by divergence from the whole member.

Sieberling et al. 2024, https://arxiv.org/abs/2410.14649, on whole layers.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated

import numpy as np
from numpy.random import Generator

from gptailor.baselines.context import BaselineContext
from gptailor.core.params import Range
from gptailor.core.tailoring import Tailoring

__all__ = ["evopress"]

Cuts = tuple[int, ...]
_N_INITIAL = 64  # random sets of cuts, of which the best is the first parent
_N_SURVIVORS = 2  # offspring that are compared with the parent
_MOST_SWAPS = 3
_TRIES = 300  # draws of new sets of cuts, and ten more for each that is wanted


def evopress(
    context: BaselineContext,
    *,
    generations: Annotated[int | None, Range(1, 10**6)] = None,
    offspring: Annotated[int, Range(2, 1000)] = 32,
    first_tokens: Annotated[int | None, Range(1, 10**9)] = None,
    second_tokens: Annotated[int | None, Range(1, 10**9)] = None,
) -> Tailoring:
    """Evolve one set of cuts by swaps; the fitness is the divergence from the whole member.

    In each generation the offspring, which differ from the parent by one to three swaps of a cut
    layer with a kept one, are compared on a random minibatch of rows; the best two of them and the
    parent are compared on a larger one. The last parent is the result.

    Args:
        context: What is to be cut.
        generations: if absent, ``n_removed * n / 1.5``, as the authors' script has it, where n
            layers of those that may be cut stay.
        offspring: Sets of cuts drawn in each generation.
        first_tokens: Tokens of the first minibatch: if absent, 1/64 of the calibration tokens (the
            authors' 2,048 of 131,072), at most 2,048. Minibatches are whole rows, at least one.
        second_tokens: Tokens of the second: 1/4 (32,768 of 131,072), at most 32,768.

    Differs from the paper: a set of cuts is drawn in whole layers; the authors' code draws
    attention and MLP and then overwrites half of the draws. The divergence is over the likeliest
    tokens, see `Statistics.divergences`.

    Raises:
        ConfigError: Fewer layers may be cut than are to be, or no cut can be scored on the texts.
    """
    statistics, n_cut = context.statistics, context.space.n_removed
    few = first_tokens or min(2048, -(-statistics.n_tokens // 64))
    many = second_tokens or min(32768, -(-statistics.n_tokens // 4))
    swaps = n_cut * (len(context.free()) - n_cut)  # that lead from a parent to a neighbour
    search = _Evolution(context, np.random.default_rng(context.seed))
    (parent,) = search.best(search.distinct(search.drawn, _N_INITIAL), few, 1)
    for _ in range((generations or int(swaps / 1.5)) if swaps else 0):
        children = search.distinct(partial(search.swapped, parent), offspring, parent)
        finalists = search.best(children, few, _N_SURVIVORS)
        (parent,) = search.best([*finalists, parent], many, 1)
    return context.cut(parent)


class _Evolution:
    """Draws and compares sets of cuts."""

    def __init__(self, context: BaselineContext, rng: Generator) -> None:
        self._context, self._rng = context, rng

    def distinct(self, draw: Callable[[], Cuts], n_wanted: int, *known: Cuts) -> list[Cuts]:
        """Draw sets of cuts until there are `n_wanted` new ones, or the draws are used up."""
        found = dict.fromkeys(known)
        for _ in range(_TRIES + 10 * n_wanted):
            if len(found) == len(known) + n_wanted:
                break
            found[draw()] = None
        return [cuts for cuts in found if cuts not in known]

    def drawn(self) -> Cuts:
        """Draw a set of cuts, each as likely as any other."""
        n_cut = self._context.space.n_removed
        return tuple(sorted(self._rng.choice(self._context.free(), n_cut, False).tolist()))

    def swapped(self, parent: Cuts) -> Cuts:
        """Swap a cut layer with a kept one, min(U{1..3}, U{1..3}) times."""
        cuts = [*parent]
        kept = [layer for layer in self._context.free() if layer not in parent]
        for _ in range(int(self._rng.integers(1, _MOST_SWAPS + 1, size=2).min())):
            here, there = self._rng.integers(len(cuts)), self._rng.integers(len(kept))
            cuts[here], kept[there] = kept[there], cuts[here]
        return tuple(sorted(cuts))

    def best(self, rivals: Sequence[Cuts], n_tokens: int, n_best: int) -> list[Cuts]:
        """Those with the least divergence on one random minibatch of rows, the best first."""
        statistics, space = self._context.statistics, self._context.space
        rows = statistics.minibatch(self._rng, n_tokens)
        models = [statistics.with_layers(space.without(cuts)) for cuts in rivals]
        found = statistics.divergences(models, rows)
        order = sorted(range(len(rivals)), key=found.__getitem__)
        return [rivals[index] for index in order[:n_best]]
