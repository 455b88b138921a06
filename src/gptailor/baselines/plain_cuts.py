"""Cuts that need no statistics: random layers, and the last ones."""

import numpy as np

from gptailor.baselines.context import BaselineContext
from gptailor.core.tailoring import Tailoring
from gptailor.errors import ConfigError

__all__ = ["last_n", "random", "tail"]

_TRIES = 200  # draws that the family does not allow, before giving up


def random(context: BaselineContext) -> Tailoring:
    """Cut a random set of layers, each set that the family allows being equally likely.

    Where kinds of layers repeat and may not be mixed, half of the draws cut whole periods instead
    (see `Space.random_cuts`): few other sets would be allowed.

    Raises:
        ConfigError: No set that was drawn can be cut from this family.
    """
    rng = np.random.default_rng(context.seed)
    for _ in range(_TRIES):
        tailoring = context.cut(context.space.random_cuts(rng))
        if context.space.accepts(tailoring):
            return tailoring
    raise ConfigError(
        f"none of {_TRIES} sets of {context.space.n_removed} layers that were drawn can be cut "
        "from this family; lower 'remove', or use another baseline"
    )


def last_n(context: BaselineContext) -> Tailoring:
    """Cut the last layers before the very last one, which stays.

    The simple rule of Gromov et al. 2024, https://arxiv.org/abs/2403.17887; with ``keep``, the last
    layers that may be cut.

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
    """
    free = context.free({context.space.n_layers - 1})
    return context.cut(free[len(free) - context.space.n_removed :])


def tail(context: BaselineContext) -> Tailoring:
    """Cut the last layers, the very last among them; with ``keep``, the last that may be cut.

    Raises:
        ConfigError: Fewer layers may be cut than are to be.
    """
    free = context.free()
    return context.cut(free[len(free) - context.space.n_removed :])
