"""SLEB: cut the layer whose absence costs the least loss, measure those left anew, and so on.

Song et al. 2024, https://arxiv.org/abs/2402.09025.
"""

from typing import Annotated

from gptailor.baselines.context import BaselineContext
from gptailor.core.params import Range
from gptailor.core.tailoring import Tailoring

__all__ = ["sleb"]


def sleb(
    context: BaselineContext, *, n_tokens: Annotated[int, Range(1, 10**9)] = 8192
) -> Tailoring:
    """Cut one layer after another, each time the one without which the loss is the lowest.

    The first and the last layer stay; of equal losses the earlier layer is cut.

    Args:
        context: What is to be cut.
        n_tokens: Tokens that losses are measured on; the authors' code uses four or five rows of
            2,048.

    Raises:
        ConfigError: Fewer layers may be cut than are to be, or no cut can be scored on the texts.
    """
    statistics, left = context.statistics, list(range(context.space.n_layers))
    free = [*context.free({0, context.space.n_layers - 1})]
    while len(left) > context.space.n_kept:
        trials = [[other for other in left if other != cut] for cut in free]
        losses = statistics.losses([statistics.with_layers(each) for each in trials], n_tokens)
        cut = free[losses.index(min(losses))]
        left.remove(cut)
        free.remove(cut)
    return context.cut(context.space.without(left))
