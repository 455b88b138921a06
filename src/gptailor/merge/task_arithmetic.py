"""Task arithmetic: add what each variant learned."""

from collections.abc import Sequence

from gptailor.merge import Range, Tensor, merge_method
from gptailor.merge.differences import add_scaled_, differences

__all__ = ["task_arithmetic"]


@merge_method(
    "task_arithmetic",
    params={"scale": Range(0.0, 2.0, default=0.5, search_high=1.0)},
    needs_base=True,
    scale="scale",
)
def task_arithmetic(tensors: Sequence[Tensor], base: Tensor, *, scale: float) -> Tensor:
    """Add the scaled sum of task vectors to the base.

    ``base + scale * sum(t - base)``; Ilharco et al. 2023, https://arxiv.org/abs/2212.04089.

    Args:
        tensors: One per source, each of ``base.shape``, float32.
        base: The same weight in the base, float32.
        scale: Dimensionless; 0 gives the base back.

    Returns:
        A new float32 tensor of ``base.shape``; the inputs are unchanged.
    """
    return add_scaled_(differences(tensors, base), base, scale)
