"""Random search: the baseline that every other searcher must beat."""

from typing import Annotated

import numpy as np

from gptailor.core.params import Range
from gptailor.core.trial import Proposal
from gptailor.searchers.searcher import ProposalGenerator, SearchContext, rung_index

__all__ = ["random_search"]


def random_search(
    context: SearchContext,
    *,
    rung: Annotated[int, rung_index] = -1,
    batch: Annotated[int, Range(1, 1000)] = 8,
) -> ProposalGenerator:
    """Draw tailorings at random, all evaluated on the same examples.

    Args:
        context: What the search is about.
        rung: Index of the rung on which all are evaluated; -1 is the last.
        batch: Tailorings asked together.
    """
    rng = np.random.default_rng(context.seed)
    while True:
        drawn = [context.space.random(rng) for _ in range(batch)]
        yield tuple(Proposal(each, context.rungs[rung], "random") for each in drawn)
