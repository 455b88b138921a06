"""Differences from the base (task vectors): their sums, their angle, and selections of entries.

A function with a trailing underscore changes the differences in place.
"""

import math
from collections.abc import Sequence

from gptailor.merge import Tensor

__all__ = [
    "add_scaled_",
    "cosine",
    "differences",
    "keep_agreeing_",
    "keep_only_",
    "largest",
    "largest_value",
    "total",
]

_CHUNK = 2**20  # entries converted to float64 at a time: 8 MB per tensor


def differences(tensors: Sequence[Tensor], base: Tensor) -> list[Tensor]:
    """Compute ``t - base`` for each tensor, as new tensors."""
    return [tensor - base for tensor in tensors]


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Sum the tensors in the order given, into a new tensor."""
    result = tensors[0].clone()
    for tensor in tensors[1:]:
        result += tensor
    return result


def add_scaled_(differences: Sequence[Tensor], base: Tensor, scale: float) -> Tensor:
    """Compute ``base + scale * total(differences)`` in the memory of the first difference."""
    result = differences[0]
    for difference in differences[1:]:
        result += difference
    return result.mul_(scale).add_(base)


def cosine(left: Tensor, right: Tensor) -> float:
    """The cosine between two tensors as flat vectors; 0 where either is all zeros.

    In float64: in float32, long sums drift by more than what distinguishes nearly colinear tensors.
    """
    dot = left_square = right_square = 0.0
    left_flat, right_flat = left.flatten(), right.flatten()  # (n,)
    for start in range(0, left_flat.numel(), _CHUNK):
        left_chunk = left_flat[start : start + _CHUNK].double()
        right_chunk = right_flat[start : start + _CHUNK].double()
        dot += float(left_chunk @ right_chunk)
        left_square += float(left_chunk @ left_chunk)
        right_square += float(right_chunk @ right_chunk)
    norms = math.sqrt(left_square) * math.sqrt(right_square)
    return max(-1.0, min(1.0, dot / norms)) if norms > 0 else 0.0


def keep_only_(difference: Tensor, kept: Tensor) -> Tensor:
    """Set to zero, in place, every entry where `kept` (bool, same shape) is False."""
    return difference.masked_fill_(~kept, 0.0)


def keep_agreeing_(differences: Sequence[Tensor]) -> None:
    """Set to zero, in place, the entries whose sign is not that of the sum; 0 counts as plus.

    The sign election of TIES; Yadav et al. 2023, https://arxiv.org/abs/2306.01708, section 3.
    """
    plus = total(differences) >= 0
    for difference in differences:
        keep_only_(difference, (difference > 0) == plus)


def largest(difference: Tensor, count: int) -> Tensor:
    """Mark (bool) the `count` entries of largest magnitude; among equals, the first in memory.

    Entries that are zero are never marked: keeping or dropping them is the same.
    """
    if count <= 0:
        return difference.isnan()  # none
    if count >= difference.numel():
        return difference != 0
    magnitude = difference.abs().flatten()  # (n,)
    threshold = largest_value(magnitude, count)
    kept = magnitude > threshold
    if threshold > 0:  # of the entries equal to the threshold, only the first few
        n_left = count - int(kept.count_nonzero())
        kept[(magnitude == threshold).nonzero().flatten()[:n_left]] = True
    return kept.view_as(difference)


def largest_value(magnitude: Tensor, count: int) -> float:
    """The `count`-th largest value, by selection instead of a sort."""
    import numpy as np

    rank = magnitude.numel() - count
    if magnitude.device.type == "cpu":  # numpy needs a quarter of torch's time here
        return float(np.partition(magnitude.numpy(), rank)[rank])
    return float(magnitude.kthvalue(rank + 1).values)
