"""Fold: cut the layers that change the stream least, and mix them into the nearest ones kept.

The folding that GPTailor (https://arxiv.org/abs/2506.20480) compares with; its formula is not
published, this one is ours.
"""

from typing import Annotated

from gptailor.baselines.context import BaselineContext
from gptailor.core.params import Range
from gptailor.core.tailoring import LayerSpec, Source, Tailoring

__all__ = ["fold"]


def fold(context: BaselineContext, *, weight: Annotated[float, Range(0.0, 1.0)] = 0.2) -> Tailoring:
    """Cut as ShortGPT does; ``W_k <- (1 - w) W_k + w * mean of the W cut next to it``.

    A cut layer goes to the nearest kept one of its kind that `keep` does not protect, of two as
    near to the earlier, and is just cut where there is none; norms are averaged too.

    Args:
        context: What is to be cut.
        weight: w; 0 gives the cut without folding.

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
    """
    cuts = set(context.lowest_layers(context.statistics.influences()))
    kept = context.space.without(cuts)
    groups: dict[int, list[int]] = {layer: [] for layer in kept}
    for cut in sorted(cuts):
        alike = [layer for layer in kept if context.may_merge({layer, cut})]
        if alike:
            groups[min(alike, key=lambda layer: (abs(layer - cut), layer))].append(cut)
    member = context.statistics.member
    specs = []
    for layer, folded in groups.items():
        sources = tuple(Source(member, each) for each in (layer, *folded))
        weights = (1 - weight if folded else 1.0, *(weight / len(folded) for _ in folded))
        specs.append(LayerSpec(sources, "linear", (("weights", weights),)))
    return context.of(specs)
