"""Task arithmetic: add what each variant learned. Knows one formula."""

from collections.abc import Sequence

from torch import Tensor

from gptailor.merge.differences import add_scaled_, differences
from gptailor.merge.method import merge_method

__all__ = ["task_arithmetic"]


@merge_method("task_arithmetic")
def task_arithmetic(tensors: Sequence[Tensor], base: Tensor, *, scale: float) -> Tensor:
    """Add the scaled sum of task vectors to the base.

    ``base + scale * sum(t - base)``; Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.

    Args:
        tensors: One per source, each of ``base.shape``, float32.
        base: The same weight in the base, float32.
        scale: Dimensionless; 0 gives the base back.

    Returns:
        A new float32 tensor of ``base.shape``; the inputs are untouched.
    """
    return add_scaled_(differences(tensors, base), base, scale)
