"""Angular distance: cut the block of layers whose two ends are the most alike.

Gromov et al. 2024, https://arxiv.org/abs/2403.17887.
"""

from gptailor.baselines.context import BaselineContext
from gptailor.core.tailoring import Tailoring

__all__ = ["angular"]


def angular(context: BaselineContext) -> Tailoring:
    """Cut ``[l, l + n)`` with the least angle between h_l and h_{l+n} at each row's last token.

    ``d = arccos(cos(h_l, h_{l+n})) / pi``, averaged over rows. Every block is a candidate, the
    first and the last among them; h_N is taken before the final norm.

    Differs from the paper: nothing is trained afterwards.

    Raises:
        ConfigError: Every block has a layer that 'keep' protects.
    """
    distances = context.statistics.similarities().angles
    return context.block(lambda start, end: float(distances[start, end]))
