"""Differences from the base: taking them, summing them, choosing among their entries.

What the methods that work on task vectors share. A difference belongs to whoever took it, so the
functions with a trailing underscore change it in place. Knows nothing of single methods.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

__all__ = ["add_scaled_", "differences", "keep_agreeing_", "keep_only_", "largest", "total"]


def differences(tensors: Sequence[Tensor], base: Tensor) -> list[Tensor]:
    """Take ``t - base`` for each tensor, as new tensors."""
    return [tensor - base for tensor in tensors]


def total(tensors: Sequence[Tensor]) -> Tensor:
    """Sum the tensors in the order given, into a new tensor."""
    result = tensors[0].clone()
    for tensor in tensors[1:]:
        result += tensor
    return result


def add_scaled_(differences: Sequence[Tensor], base: Tensor, scale: float) -> Tensor:
    """``base + scale * total(differences)``, in the first one's place: merging waits for memory."""
    result = differences[0]
    for difference in differences[1:]:
        result += difference
    return result.mul_(scale).add_(base)


def keep_only_(difference: Tensor, kept: Tensor) -> Tensor:
    """Set to zero, in place, every entry that `kept` (bool, same shape) does not name."""
    return difference.masked_fill_(~kept, 0.0)


def keep_agreeing_(differences: Sequence[Tensor]) -> None:
    """Set to zero, in place, the entries whose sign is not that of the sum; 0 counts as plus.

    TIES' election of signs; Yadav et al. 2023, https://arxiv.org/abs/2306.01708, section 3.
    """
    plus = total(differences) >= 0
    for difference in differences:
        keep_only_(difference, (difference > 0) == plus)


def largest(difference: Tensor, count: int) -> Tensor:
    """Name the `count` entries of largest magnitude; among equals, the first in memory order.

    Entries that are zero are never named: to keep or to drop them is the same.

    Args:
        difference: Of any shape.
        count: How many entries; anything from 0 to all of them.

    Returns:
        A bool tensor of the same shape.
    """
    if count <= 0:
        return torch.zeros_like(difference, dtype=torch.bool)
    if count >= difference.numel():
        return difference != 0
    magnitude = difference.abs().flatten()
    threshold = _largest_value(magnitude, count)
    kept = magnitude > threshold
    if threshold > 0:  # equals at the threshold: only as many as there is room for
        room = count - int(kept.count_nonzero())
        kept[(magnitude == threshold).nonzero().flatten()[:room]] = True
    return kept.view_as(difference)


def _largest_value(magnitude: Tensor, count: int) -> float:
    """The `count`-th largest value, by selection: no sort, no indices as large as the tensor."""
    rank = magnitude.numel() - count
    if magnitude.device.type == "cpu":  # numpy's selection takes a quarter of torch's time here
        return float(np.partition(magnitude.numpy(), rank)[rank])
    return float(magnitude.kthvalue(rank + 1).values)
