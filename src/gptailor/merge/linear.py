"""Linear: a weighted mean of the sources ("model soup")."""

import math
from collections.abc import Sequence

from gptailor.merge import Tensor, merge_method
from gptailor.merge.differences import total

__all__ = ["linear"]


@merge_method("linear", weighted=True)
def linear(tensors: Sequence[Tensor], *, weights: Sequence[float]) -> Tensor:
    """Average the sources, each by its share of the weights.

    ``sum(w * t) / sum(w)``; Wortsman et al. 2022, https://arxiv.org/abs/2203.05482. Weights may be
    negative, but not their sum. Computed as the first source plus the sum of the others' shares of
    their differences from it, so that equal sources are returned to the bit; it is task arithmetic
    on the first source.
    """
    first, sum_of_weights = tensors[0], math.fsum(weights)
    return first + total(
        [
            (weight / sum_of_weights) * (tensor - first)
            for tensor, weight in zip(tensors[1:], weights[1:], strict=True)
        ]
    )
