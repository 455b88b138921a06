"""DARE: drop entries of the differences at random and rescale the rest."""

from collections.abc import Sequence

from gptailor.merge import Range, Tensor, merge_method
from gptailor.merge.differences import add_scaled_, keep_agreeing_, keep_only_

__all__ = ["dare_linear", "dare_ties"]

_PARAMS = {
    "density": Range(0.0, 1.0, default=0.5, search_low=0.1),
    "scale": Range(0.0, 2.0, default=0.5, search_high=1.0),
    "seed": Range(0, 2**31 - 1, default=0, integer=True, tunable=False),
}


@merge_method("dare_linear", params=_PARAMS, needs_base=True, scale="scale")
def dare_linear(
    tensors: Sequence[Tensor], base: Tensor, *, density: float, scale: float, seed: int
) -> Tensor:
    """Add the scaled sum of differences of which a random share is kept.

    Each entry of each difference is kept with probability `density` and divided by it, else 0;
    ``base + scale * sum``. Masks are drawn from the seed in the order of the sources. Yu et al.
    2024, https://arxiv.org/abs/2311.03099.

    *Differs from mergekit:* rescaled by 1 / density as in the paper, where mergekit 0.1.5 restores
    each difference's sum of magnitudes; and drawn from a generator of its own on the CPU, so that
    every device keeps the same entries.
    """
    return add_scaled_(_sampled(tensors, base, density=density, seed=seed), base, scale)


@merge_method("dare_ties", params=_PARAMS, needs_base=True, scale="scale")
def dare_ties(
    tensors: Sequence[Tensor], base: Tensor, *, density: float, scale: float, seed: int
) -> Tensor:
    """Add those of DARE's kept and rescaled differences that agree in sign.

    As `dare_linear`, but of the kept entries only those with the sign of their sum (plus where they
    cancel) are added; the sum is not averaged. Yu et al. 2024, https://arxiv.org/abs/2311.03099,
    with the sign election of https://arxiv.org/abs/2306.01708. *Differs from mergekit:* as
    `dare_linear` does.
    """
    sampled = _sampled(tensors, base, density=density, seed=seed)
    keep_agreeing_(sampled)
    return add_scaled_(sampled, base, scale)


def _sampled(tensors: Sequence[Tensor], base: Tensor, *, density: float, seed: int) -> list[Tensor]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    sampled = []
    for tensor in tensors:
        kept = torch.rand(base.shape, generator=generator) < density
        # density 0: the division gives inf or NaN, and none of it is kept
        sampled.append(keep_only_((tensor - base).div_(density), kept.to(base.device)))
    return sampled
