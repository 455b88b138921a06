"""Children of one parent: drawn by mutation or crossover, most of them picked by the surrogate."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from gptailor.core.tailoring import Tailoring
from gptailor.searchers.halving import Judge
from gptailor.searchers.mutation import crossover, mutate
from gptailor.searchers.surrogate import LossModel, Surrogate, describe

__all__ = ["Offspring"]

_TRIES = 20  # draws, beyond three a child, before a generation has fewer children

Child = tuple[Tailoring, str]  # and its origin


@dataclass(frozen=True, slots=True)
class Offspring:
    """Draws generations of children that were not evaluated before.

    The others are options of `evolution`.
    """

    model: LossModel  # fits the surrogate that picks children
    # how often each change of `mutation.CHANGES` is made, relative to the others
    rates: Mapping[str, float]
    mutation_rate: float
    crossover_rate: float
    share_prefix: float
    surrogate_fraction: float
    surrogate_pool: int

    def draw(
        self, judge: Judge, elite: Sequence[Tailoring], size: int, rng: Generator
    ) -> tuple[Tailoring, list[Child]]:
        """Draw a parent from the elite, and up to `size` children of it."""
        parent = elite[_rank(len(elite), rng)]
        n_picked = int(rng.binomial(size, self.surrogate_fraction))
        surrogate = self.model.fit(judge) if n_picked and self.surrogate_pool > 1 else None
        wanted = size if surrogate is None else size + n_picked * (self.surrogate_pool - 1)
        drawn: dict[Tailoring, str] = {}
        for _ in range(3 * wanted + _TRIES):
            if len(drawn) == wanted:
                break
            child = self._child(parent, elite, rng)
            if child is not None and not self.model.context.history.evaluated(child[0]):
                drawn.setdefault(*child)
        children = list(drawn)
        if surrogate is not None and len(children) > size:
            at_random, pool = children[: size - n_picked], children[size - n_picked :]
            children = at_random + self._picked(surrogate, pool, n_picked, rng)
        return parent, [(child, drawn[child]) for child in children]

    def _child(self, parent: Tailoring, elite: Sequence[Tailoring], rng: Generator) -> Child | None:
        """Draw a child; None where no draw gave an allowed one that differs."""
        space = self.model.context.space
        if len(elite) > 1 and rng.random() < self.crossover_rate:
            others = [other for other in elite if other != parent]
            mixed = crossover(space, parent, others[rng.integers(len(others))], rng)
            return None if mixed is None else (mixed, "crossover")
        n_changes = 1 + int(rng.poisson(self.mutation_rate - 1.0))
        late = self.share_prefix
        return mutate(space, parent, rng, rates=self.rates, n_changes=n_changes, late=late)

    def _picked(
        self, surrogate: Surrogate, pool: list[Tailoring], n: int, rng: Generator
    ) -> list[Tailoring]:
        """Take the best of the pool `n` times, each time by newly drawn coefficients."""
        features = describe(self.model.context.space, pool)  # (n_pool, n_features)
        left, picked = list(range(len(pool))), []
        for _ in range(n):
            best = left[int(np.argmin(features[left] @ surrogate.draw(rng)))]
            left.remove(best)
            picked.append(pool[best])
        return picked


def _rank(n_elite: int, rng: Generator) -> int:
    """Draw an index into the elite: each is half as likely as the one before."""
    odds = 0.5 ** np.arange(n_elite)
    return int(rng.choice(n_elite, p=odds / odds.sum()))
