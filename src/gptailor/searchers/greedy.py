"""Greedy removal: cut the layer whose absence costs least, evaluate anew, and so on (SLEB).

Song et al. 2024, https://arxiv.org/abs/2402.09025. Every layer comes from one member; nothing is
merged.
"""

import itertools
from dataclasses import dataclass
from typing import Annotated

import numpy as np

from gptailor.core.params import Range
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Proposal
from gptailor.searchers.halving import Judge
from gptailor.searchers.initial_designs import Cuts, late_blocks
from gptailor.searchers.searcher import ProposalGenerator, SearchContext, member_names, rung_index
from gptailor.searchers.space import Space

__all__ = ["greedy"]


def greedy(
    context: SearchContext,
    *,
    rung: Annotated[int, rung_index] = 0,
    member: Annotated[str, member_names] = BASE,
    n_final: Annotated[int, Range(1, 1000)] = 3,
) -> ProposalGenerator:
    """Cut one layer after another, each time the one whose absence costs least.

    A step asks every candidate with one more layer cut, as one group ranked by the proxy metric.
    Its proposals have fewer layers cut than wanted until the last step: only trials whose tailoring
    has ``space.n_kept`` layers are results. The best of those are asked again on the last rung.

    Where the budget is too small for one layer a step, a step cuts several at once; where it is
    too small for one whole step, only late layers are; with one trial, a late block is cut.
    The last trial of the budget is always kept for a result. The seed is used only where nothing
    but a random draw is left that the family allows.

    Args:
        context: What the search is about.
        rung: Index of the rung on which the steps are evaluated; -1 is the last.
        member: The member whose layers are cut.
        n_final: How many of the best results are asked on the last rung.
    """
    removal = _Removal(context.space, member)
    judge = Judge(context)
    cuts: Cuts = ()
    results: list[Cuts] = []
    while len(cuts) < context.space.n_removed:
        n_cut, candidates = removal.step(
            cuts, int(context.left / context.cost(context.rungs[rung])) - 1
        )
        if not candidates:
            break
        group = {each: removal.tailoring(each) for each in candidates}
        yield tuple(
            Proposal(tailoring, context.rungs[rung], _origin(cuts, each))
            for each, tailoring in group.items()
        )
        losses = judge.proxy_losses(group.values())
        ranked = sorted(candidates, key=lambda each: losses.get(group[each], np.inf))
        results = [each for each in ranked if len(each) == context.space.n_removed]
        cuts = removal.joined(ranked[:n_cut])
    final = list(dict.fromkeys([removal.completed(cuts, context.seed), *results]))[:n_final]
    yield tuple(
        Proposal(removal.tailoring(each), context.rungs[-1], "greedy result") for each in final
    )


@dataclass(frozen=True, slots=True)
class _Removal:
    """Sets of cuts of one member's layers."""

    space: Space
    member: str

    def tailoring(self, cuts: Cuts) -> Tailoring:
        return self.space.uniform(cuts, () if self.member == BASE else (self.member,))

    def step(self, cuts: Cuts, budget: int) -> tuple[int, list[Cuts]]:
        """How many candidates the next step cuts together, and the candidates, late ones first."""
        wanted, n_free = self.space.n_removed - len(cuts), len(self.space.free) - len(cuts)
        candidates = self._candidates(cuts)
        for n_steps in range(wanted, 0, -1):
            sizes = [len(part) for part in np.array_split(np.arange(wanted), n_steps)]
            if sum(n_free - sum(sizes[:step]) for step in range(n_steps)) <= budget:
                return sizes[0], candidates
        return wanted, candidates[:budget]

    def _candidates(self, cuts: Cuts) -> list[Cuts]:
        """Cut one layer more; or, where the family allows no such tailoring, a run of more."""
        left = self.space.without(cuts)
        for length in range(1, self.space.n_removed - len(cuts) + 1):
            *starts, last = range(len(left) - length + 1)
            starts = [*reversed(starts), last]  # late layers first, but the very last at the end
            runs = [left[start : start + length] for start in starts]
            more = [tuple(sorted((*cuts, *run))) for run in runs if not self.space.keep & set(run)]
            if allowed := [each for each in more if self._allowed(each)]:
                return allowed
        return []

    def joined(self, chosen: list[Cuts]) -> Cuts:
        """All cuts of several candidates; the first one's alone where that is not allowed."""
        joined = tuple(sorted(set().union(*chosen)))
        fits = len(joined) <= self.space.n_removed
        return joined if fits and self._allowed(joined) else chosen[0]

    def completed(self, cuts: Cuts, seed: int) -> Cuts:
        """Cut late layers until there are enough cuts."""
        late = [layer for layer in reversed(late_blocks(self.space)[0]) if layer not in cuts]
        rest = [layer for layer in reversed(self.space.free) if layer not in (*cuts, *late)]
        whole = tuple(sorted([*cuts, *late, *rest][: self.space.n_removed]))
        rng = np.random.default_rng(seed)
        drawn = (self.space.random_cuts(rng) for _ in range(1000))
        return next(filter(self._allowed, itertools.chain([whole], drawn)), whole)

    def _allowed(self, cuts: Cuts) -> bool:
        return self.space.accepts(self.tailoring(cuts))


def _origin(before: Cuts, after: Cuts) -> str:
    return "without " + ", ".join(str(layer) for layer in after if layer not in before)
