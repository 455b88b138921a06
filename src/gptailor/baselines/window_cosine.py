"""Window cosine: cut the block whose two ends have the highest mean cosine over all tokens.

The pruning step of LLM-Streamline, Chen et al. 2024, https://arxiv.org/abs/2403.19135, without the
layer that it trains as a replacement.
"""

from gptailor.baselines.context import BaselineContext
from gptailor.core.tailoring import Tailoring

__all__ = ["window_cosine"]


def window_cosine(context: BaselineContext) -> Tailoring:
    """Cut ``[l, l + n)`` with the highest mean over tokens of cos(h_l, h_{l+n}).

    Differs from the paper: the first token of each row is left out (see `Statistics`), and h_N is
    taken before the final norm.

    Raises:
        ConfigError: Every block has a layer that 'keep' protects.
    """
    cosines = context.statistics.similarities().cosines
    return context.block(lambda start, end: -float(cosines[start, end]))
