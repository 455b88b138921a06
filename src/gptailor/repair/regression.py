"""Ridge regression of a change of a linear map, from sums over tokens."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["RIDGES", "Sums", "fitted_change"]

RIDGES = (0.03, 0.1, 0.3, 1.0, 3.0)  # lambdas, in units of the Gram matrix' mean diagonal entry
_NEARLY = 0.95  # share of the best gain on held-out tokens that a larger ridge must reach


@dataclass(slots=True)
class Sums:
    """Sums over tokens of outer products: inputs by inputs, and inputs by what is missing."""

    gram: Tensor  # (F, F) float64
    cross: Tensor  # (F, H) float64

    @classmethod
    def zero(cls, n_inputs: int, n_outputs: int, device: torch.device) -> "Sums":
        """No token yet."""
        shapes = (n_inputs, n_inputs), (n_inputs, n_outputs)
        gram, cross = (torch.zeros(s, dtype=torch.float64, device=device) for s in shapes)
        return cls(gram, cross)

    def add(self, inputs: Tensor, missing: Tensor, weights: Tensor) -> None:
        """Add tokens.

        Inputs in bfloat16 are known no better than that, nor is what is missing: there factors are
        rounded to it and sums are in float32, which takes a third of the time on a CPU with AMX.

        Args:
            inputs: Of the linear map, (n, F).
            missing: What its outputs are to gain, (n, H).
            weights: How much each token counts, (n,).
        """
        root = weights.float().sqrt()[:, None]
        weighted, wanted = inputs.float() * root, missing.float() * root
        with _products_of(inputs.dtype):
            self.gram += weighted.T @ weighted
            self.cross += weighted.T @ wanted

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.gram + other.gram, self.cross + other.cross)

    def error(self, change: Tensor) -> float:
        """Weighted squared error of a change (F, H) float32, less that of no change."""
        difference = self.gram.float() @ change - 2 * self.cross.float()
        return float((change * difference).double().sum())


@contextlib.contextmanager
def _products_of(dtype: torch.dtype) -> Iterator[None]:
    """Let products of float32 matrices round their factors to bfloat16, if that is the dtype."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium" if dtype == torch.bfloat16 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def fitted_change(
    tokens: Iterable[tuple[Tensor, Tensor, Tensor, Tensor]],
    like: Tensor,
    ridges: Sequence[float] = RIDGES,
) -> Tensor:
    """Fit the change of a linear map so that its outputs gain what is missing.

    ``D = (A^T A + lambda I)^-1 A^T R`` over weighted tokens, a ridge towards the map as it is. Of
    several lambdas the largest is taken that gains nearly as much on held-out tokens as the best:
    those are of texts of the same kind, and others want more of the original map. Then all tokens
    are fitted. Where none of them is better than no change, or no token is held out, the change
    is 0.

    Args:
        tokens: For each batch the inputs A (n, F), what is missing R (n, H), weights (n,), and
            which tokens are held out to choose lambda, bool (n,); with one lambda none is.
        like: The map's weight, (H, F).
        ridges: Lambdas, in units of the mean diagonal entry of ``A^T A``.

    Returns:
        The change of the weight, (H, F) float32.
    """
    sizes = like.shape[1], like.shape[0]
    fit, held_out = Sums.zero(*sizes, like.device), Sums.zero(*sizes, like.device)
    for *batch, held in tokens:
        if len(ridges) == 1:
            fit.add(*batch)
            continue
        fit.add(*(tensor[~held] for tensor in batch))
        held_out.add(*(tensor[held] for tensor in batch))
    if len(ridges) == 1:
        return _solved(fit, ridges[0]).T
    gains = {ridge: -held_out.error(_solved(fit, ridge)) for ridge in ridges}
    best = max(gains.values())
    if best <= 0:
        return torch.zeros_like(like, dtype=torch.float32)
    ridge = max(ridge for ridge, gain in gains.items() if gain >= _NEARLY * best)
    return _solved(fit + held_out, ridge).T


def _solved(sums: Sums, ridge: float) -> Tensor:
    """The change (F, H) in float32 for a ridge in units of the mean diagonal."""
    regular = sums.gram.float()  # the ridge bounds its condition: float32 is enough
    shift = max(ridge * float(regular.diagonal().mean()), torch.finfo(torch.float32).tiny)
    regular.diagonal().add_(shift)
    return torch.cholesky_solve(sums.cross.float(), torch.linalg.cholesky(regular))
