"""Breadcrumbs: differences without their smallest and largest entries."""

from collections.abc import Sequence

from gptailor.merge import Range, Tensor, merge_method
from gptailor.merge.differences import add_scaled_, differences, keep_only_, largest

__all__ = ["breadcrumbs"]


@merge_method(
    "breadcrumbs",
    params={
        "density": Range(0.0, 1.0, default=0.9, search_low=0.5),
        "gamma": Range(0.0, 1.0, default=0.01, search_high=0.1),
        "scale": Range(0.0, 2.0, default=0.5, search_high=1.0),
    },
    needs_base=True,
    scale="scale",
)
def breadcrumbs(
    tensors: Sequence[Tensor], base: Tensor, *, density: float, gamma: float, scale: float
) -> Tensor:
    """Add the scaled sum of differences without outliers and without the smallest entries.

    Of the n entries of each difference, by magnitude: the ``int(gamma * n)`` largest are dropped,
    the next ``int(density * n)`` are kept, the rest is dropped; where both do not fit in n, fewer
    of the largest are dropped. ``base + scale * sum``. Davari and Belilovsky 2023,
    https://arxiv.org/abs/2312.06795.
    """
    n_entries = base.numel()
    n_kept = int(density * n_entries)
    n_outliers = min(int(gamma * n_entries), n_entries - n_kept)
    crumbs = [
        keep_only_(each, largest(each, n_outliers + n_kept) & ~largest(each, n_outliers))
        for each in differences(tensors, base)
    ]
    return add_scaled_(crumbs, base, scale)
