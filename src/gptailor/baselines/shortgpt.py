"""ShortGPT: cut the layers that change the residual stream least.

Men et al. 2024, https://arxiv.org/abs/2403.03853.
"""

from gptailor.baselines.context import BaselineContext
from gptailor.core.tailoring import Tailoring

__all__ = ["shortgpt", "shortgpt_iterative"]


def shortgpt(context: BaselineContext) -> Tailoring:
    """Cut the layers with the least Block Influence, all at once.

    ``BI_l = 1 - mean over tokens of cos(h_l, h_{l+1})``. Every layer may be cut.

    Differs from the paper: the first token of each row is left out (see `Statistics`).

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
    """
    return context.lowest(context.statistics.influences())


def shortgpt_iterative(context: BaselineContext) -> Tailoring:
    """Cut the layer with the least Block Influence, measure those left anew, and so on.

    The variant of Prune&Comp (https://arxiv.org/abs/2507.18212).

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
    """
    statistics, left = context.statistics, list(range(context.space.n_layers))
    context.free()
    while len(left) > context.space.n_kept:
        scores = statistics.influences(statistics.with_layers(left))
        influences = dict(zip(left, scores, strict=True))
        free = [layer for layer in left if layer not in context.space.keep]
        left.remove(min(free, key=influences.__getitem__))
    return context.cut(context.space.without(left))
