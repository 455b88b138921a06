"""Wanda-sp: remove heads and neurons with the least weight times activation.

The structured variant of Wanda (Sun et al. 2023, https://arxiv.org/abs/2306.11695) that FLAP (An et
al. 2023, https://arxiv.org/abs/2312.11983) compares with.
"""

from torch import Tensor

from gptailor.baselines.context import BaselineContext
from gptailor.baselines.width.layerwise import pruned, width_of
from gptailor.core.tailoring import Tailoring

__all__ = ["wanda_sp", "without_lowest"]


def wanda_sp(context: BaselineContext) -> Tailoring:
    """Remove the lowest kv-groups and neurons of each layer, the same number from all.

    The score of a column is the mean over rows of ``|W| * |x|_2`` (x: that input at all tokens), of
    a kv-group the sum over its columns. No other weight changes. Later layers see the outputs of
    the pruned ones.

    Differs from the authors: whole kv-groups go, not single heads, and the parameters removed are
    those of the layers that a cut would remove.

    Raises:
        FamilyError: Heads and neurons can't be taken out of the family's layers.
    """
    width = width_of(context, context.share)
    return pruned(context, [width] * context.space.n_layers, without_lowest)


def without_lowest(weight: Tensor, inputs: Tensor, n_columns: int, n_removed: int) -> Tensor:
    """Make the blocks of columns with the lowest scores zero; see `Pruner`."""
    scores = weight.abs().mean(0) * inputs.norm(dim=0)  # (F,)
    order = scores.reshape(-1, n_columns).sum(1).sort(stable=True).indices
    blocks = weight.clone().reshape(len(weight), -1, n_columns)
    blocks[:, order[:n_removed]] = 0
    return blocks.reshape(weight.shape)
