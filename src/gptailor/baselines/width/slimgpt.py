"""SlimGPT: remove heads and neurons, and change the rest so that outputs change least.

Ling et al. 2024, https://arxiv.org/abs/2412.18110; Optimal Brain Surgeon on whole columns.
"""

import math

import torch
from torch import Tensor

from gptailor.baselines.context import BaselineContext
from gptailor.baselines.width.layerwise import gram_of, pruned, width_of
from gptailor.core.tailoring import Tailoring

__all__ = ["column_errors", "slimgpt", "slimgpt_log", "without_columns", "without_least_error"]

_DAMPING = 0.01  # of the Gram matrix' mean diagonal
_LARGEST = 1024 / 11008  # of the columns: the paper's first group of a 7B model
_SMALLEST = 8


def slimgpt(context: BaselineContext) -> Tailoring:
    """Remove the same number of kv-groups and neurons from every layer.

    Differs from the paper: whole kv-groups go, not single heads. Neurons go in groups that begin
    with the paper's 1024 of 11008 and are halved down to 8.

    Raises:
        FamilyError: Heads and neurons can't be taken out of the family's layers.
    """
    width = width_of(context, context.share)
    return pruned(context, [width] * context.space.n_layers, without_least_error)


def slimgpt_log(context: BaselineContext) -> Tailoring:
    """Remove more from later layers, since the errors of early ones pass through all the others.

    The share of layer i is ``r_0 + (r_{n-1} - r_0) * log(i + 1) / log(n)`` with r_0 = 0 and the
    mean share of a cut. No stock model has layers of different widths: the result is exported with
    zeros in its matrices.

    Raises:
        FamilyError: Heads and neurons can't be taken out of the family's layers.
    """
    logs = [math.log(layer + 1) for layer in range(context.space.n_layers)]
    mean = math.fsum(logs) / len(logs) or 1.0
    shares = [min(0.99, context.share * log / mean) for log in logs]
    return pruned(context, [width_of(context, share) for share in shares], without_least_error)


def without_least_error(weight: Tensor, inputs: Tensor, n_columns: int, n_removed: int) -> Tensor:
    """Remove blocks of columns one after another, or single columns in groups; see `Pruner`."""
    gram = gram_of(inputs)
    gram.diagonal().add_(_DAMPING * gram.diagonal().mean() + torch.finfo(torch.float64).tiny)
    left, inverse = weight.double().cpu(), torch.linalg.inv(gram)
    columns = torch.arange(weight.shape[1]).reshape(-1, n_columns)
    gone = torch.zeros(len(columns), dtype=torch.bool)
    size = 1 if n_columns > 1 else max(_SMALLEST, round(_LARGEST * len(columns)))
    while n_removed:
        errors = column_errors(left, inverse, columns).masked_fill(gone, math.inf)
        least = errors.sort(stable=True).indices[: min(size, n_removed)]
        gone[least] = True
        left, inverse = without_columns(left, inverse, columns[least].flatten())
        n_removed -= len(least)
        size = size if n_columns > 1 else max(_SMALLEST, size // 2)
    return left.to(weight)


def column_errors(weight: Tensor, inverse: Tensor, columns: Tensor) -> Tensor:
    """The squared error of the outputs that removing each block of columns adds at least.

    ``tr(W_P [H^-1]_PP^-1 W_P^T)``, by one Cholesky factor for each block.

    Args:
        weight: Of the linear map, (H, F).
        inverse: Of the inputs' Gram matrix, (F, F); zero at columns that were removed.
        columns: Of each block P, (blocks, columns).
    """
    blocks = inverse[columns[:, :, None], columns[:, None, :]]  # (blocks, columns, columns)
    removed = blocks.diagonal(dim1=1, dim2=2) == 0
    factors = torch.linalg.cholesky(blocks + torch.diag_embed(removed.to(blocks)))
    parts = weight.T[columns]  # (blocks, columns, H)
    solved: Tensor = torch.linalg.solve_triangular(factors, parts, upper=False)
    return solved.square().sum((1, 2))


def without_columns(weight: Tensor, inverse: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Remove columns together; the others change so that the outputs change least.

    ``W - W_P [H^-1]_PP^-1 [H^-1]_P``: what column by column gives in the end. Returns the weight
    and the inverse, both zero at the removed columns.
    """
    step = torch.linalg.solve(inverse[columns][:, columns], inverse[columns])  # (P, F)
    weight = weight - weight[:, columns] @ step
    inverse = inverse - inverse[:, columns] @ step
    weight[:, columns] = 0
    inverse[:, columns] = 0
    inverse[columns] = 0
    return weight, inverse
