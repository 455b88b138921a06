"""The cosine between two tensors."""

import math

from gptailor.merge import Tensor

__all__ = ["cosine"]

_CHUNK = 2**20  # entries converted to float64 at a time: 8 MB per tensor


def cosine(left: Tensor, right: Tensor) -> float:
    """Measure the cosine between two tensors as flat vectors, in float64.

    In half precision the products of small entries vanish, and in float32 long sums drift by more
    than what distinguishes nearly colinear tensors.

    Returns:
        From -1 to 1; 0 where either tensor is all zeros, which has no direction.
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
