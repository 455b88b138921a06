"""Shortened LLaMA: cut the layers with the least importance, by perplexity or by Taylor scores.

Kim et al. 2024, https://arxiv.org/abs/2402.02834. Importance is measured once, on the whole member;
with "plus", which is the paper's default, the first four layers and the last two are never cut.
"""

from typing import Annotated

from gptailor.baselines.context import BaselineContext
from gptailor.core.params import Range
from gptailor.core.tailoring import Tailoring

__all__ = ["shortened_ppl", "shortened_ppl_plus", "shortened_taylor", "shortened_taylor_plus"]

_Tokens = Annotated[int, Range(1, 10**9)]
_N_TOKENS = 1280  # the authors' 10 rows of 128 tokens


def shortened_ppl(context: BaselineContext, *, n_tokens: _Tokens = _N_TOKENS) -> Tailoring:
    """Cut the layers without which the member's loss is the lowest, one at a time.

    Args:
        context: What is to be cut.
        n_tokens: Tokens that the loss is measured on.

    Raises:
        ConfigError: Fewer layers may be cut than are to be, or no cut can be scored on the texts.
    """
    return context.lowest(_losses(context, n_tokens))


def shortened_ppl_plus(context: BaselineContext, *, n_tokens: _Tokens = _N_TOKENS) -> Tailoring:
    """As `shortened_ppl`; the first four layers and the last two stay.

    Raises:
        ConfigError: Fewer layers may be cut than are to be, or no cut can be scored on the texts.
    """
    protected = _plus(context)
    return context.lowest(_losses(context, n_tokens), protected)


def shortened_taylor(context: BaselineContext, *, n_tokens: _Tokens = _N_TOKENS) -> Tailoring:
    """Cut the layers with the least Taylor score: sum over weights of abs(gradient * weight).

    The gradient is that of the mean loss over all tokens, so the absolute value is taken after the
    sum over rows.

    Args:
        context: What is to be cut.
        n_tokens: Tokens that the gradient is measured on.

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
        FamilyError: The gradients of all layers do not fit into memory.
    """
    return context.lowest(context.statistics.taylor_scores(n_tokens))


def shortened_taylor_plus(context: BaselineContext, *, n_tokens: _Tokens = _N_TOKENS) -> Tailoring:
    """As `shortened_taylor`; the first four layers and the last two stay.

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
        FamilyError: The gradients of all layers do not fit into memory.
    """
    protected = _plus(context)
    return context.lowest(context.statistics.taylor_scores(n_tokens), protected)


def _losses(context: BaselineContext, n_tokens: int) -> list[float]:
    n_layers, statistics = context.space.n_layers, context.statistics
    without = [[other for other in range(n_layers) if other != cut] for cut in range(n_layers)]
    return statistics.losses([statistics.with_layers(left) for left in without], n_tokens)


def _plus(context: BaselineContext) -> set[int]:
    """The layers that stay, where enough others are left."""
    n_layers = context.space.n_layers
    protected = {0, 1, 2, 3, n_layers - 2, n_layers - 1}
    context.free(protected)  # too few are refused before anything is measured
    return protected
