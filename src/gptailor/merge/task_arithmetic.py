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
    """
    return add_scaled_(differences(tensors, base), base, scale)
