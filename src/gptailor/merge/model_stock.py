"""Model Stock: go from the base towards the mean, as far as the differences agree."""

import itertools
import math
from collections.abc import Sequence

from gptailor.merge import Tensor, merge_method
from gptailor.merge.differences import add_scaled_, cosine, differences

__all__ = ["model_stock", "model_stock_step"]

_SINGULAR = 1e-6  # below this denominator the differences cancel, and the base is returned


@merge_method("model_stock", needs_base=True)
def model_stock(tensors: Sequence[Tensor], base: Tensor) -> Tensor:
    """Go from the base towards the mean of the sources, the further the more they agree.

    ``base + t * mean(t_i - base)`` with ``t = N c / (1 + (N - 1) c)``, N sources, c the mean cosine
    between their differences; Jang et al. 2024, https://arxiv.org/abs/2403.19522, eq. 7. Where the
    denominator vanishes (differences that cancel) the base is returned. A negative c gives a
    negative t, as in the formula.

    *Differs from mergekit:* the angle is measured however small the differences are, where mergekit
    0.1.5 replaces products of norms below 1e-6 by 1e-6.
    """
    deltas = differences(tensors, base)
    return add_scaled_(deltas, base, model_stock_step(deltas))


def model_stock_step(deltas: Sequence[Tensor]) -> float:
    """The factor of the sum of the differences: ``t / N``."""
    n_sources = len(deltas)
    cosines = [cosine(left, right) for left, right in itertools.combinations(deltas, 2)]
    mean_cosine = math.fsum(cosines) / len(cosines)
    denominator = 1 + (n_sources - 1) * mean_cosine
    ratio = n_sources * mean_cosine / denominator if denominator > _SINGULAR else 0.0
    return ratio / n_sources
