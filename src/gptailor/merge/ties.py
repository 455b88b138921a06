"""TIES: trim, elect a sign, average what agrees."""

from collections.abc import Sequence

from gptailor.merge import Range, Tensor, merge_method
from gptailor.merge.differences import differences, keep_agreeing_, keep_only_, largest, total

__all__ = ["ties"]


@merge_method(
    "ties",
    params={
        "density": Range(0.0, 1.0, default=0.5, search_low=0.1),
        "scale": Range(0.0, 2.0, default=0.5, search_high=1.0),
    },
    needs_base=True,
    scale="scale",
)
def ties(tensors: Sequence[Tensor], base: Tensor, *, density: float, scale: float) -> Tensor:
    """Add the mean of those large differences that agree in sign.

    Each difference from the base keeps its ``max(1, int(density * n))`` largest of n entries; the
    sign of their sum is elected, plus where they cancel; ``base + scale * mean`` over the non-zero
    entries of that sign. Yadav et al. 2023, https://arxiv.org/abs/2306.01708.
    """
    count = max(1, int(density * base.numel())) if density > 0 else 0
    trimmed = [keep_only_(each, largest(each, count)) for each in differences(tensors, base)]
    keep_agreeing_(trimmed)
    n_agreeing = total([(each != 0).float() for each in trimmed]).clamp_(min=1)
    return base + scale * total(trimmed).div_(n_agreeing)
