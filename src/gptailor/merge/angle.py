"""The angle between two tensors, each taken as one long vector. Knows nothing of methods."""

import math

from torch import Tensor

__all__ = ["cosine"]

_CHUNK = 2**20  # entries held in float64 at a time: 8 MB a tensor


def cosine(left: Tensor, right: Tensor) -> float:
    """Measure the cosine between two tensors, in float64, from -1 to 1.

    In half precision the products of small entries vanish, and in float32 long sums drift by more
    than what tells nearly colinear tensors apart.

    Returns:
        The cosine; 0 where either tensor is all zeros, which has no direction.
    """
    dot = left_square = right_square = 0.0
    left_flat, right_flat = left.flatten(), right.flatten()
    for start in range(0, left_flat.numel(), _CHUNK):
        left_part = left_flat[start : start + _CHUNK].double()
        right_part = right_flat[start : start + _CHUNK].double()
        dot += float(left_part @ right_part)
        left_square += float(left_part @ left_part)
        right_square += float(right_part @ right_part)
    norms = math.sqrt(left_square) * math.sqrt(right_square)
    return max(-1.0, min(1.0, dot / norms)) if norms > 0 else 0.0
