"""Slerp: spherical interpolation between two sources."""

import math
from collections.abc import Sequence

from gptailor.merge import Range, Tensor, merge_method
from gptailor.merge.differences import cosine

__all__ = ["slerp", "slerp_shares"]

_COLINEAR = 0.9995  # beyond this cosine the arc is a line, and 1 / sin(angle) amplifies rounding


@merge_method(
    "slerp",
    params={"t": Range(0.0, 1.0, default=0.5)},
    symmetric=False,
    max_sources=2,
    identity={"t": {0.0: 0, 1.0: 1}},
)
def slerp(tensors: Sequence[Tensor], *, t: float) -> Tensor:
    """Go the fraction `t`, from 0 to 1, of the arc from the first source to the second.

    ``(sin((1 - t) a) t0 + sin(t a) t1) / sin(a)`` with a the angle between the two as flat vectors;
    Shoemake 1985, https://doi.org/10.1145/325334.325242. Where they are nearly colinear, or
    opposite, a straight line: ``(1 - t) t0 + t t1``. A tensor of zeros has no direction and counts
    as orthogonal; equal tensors are returned to the bit.
    """
    start, end = tensors
    of_start, of_end = slerp_shares(start, end, t)
    return of_start * start + of_end * end


def slerp_shares(start: Tensor, end: Tensor, t: float) -> tuple[float, float]:
    """Factors of the two sources; the sum of the products is the result."""
    if start.equal(end):
        return 1.0, 0.0
    cos = cosine(start, end)
    if abs(cos) > _COLINEAR:
        return 1 - t, t
    angle = math.acos(cos)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)
