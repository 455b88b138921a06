"""Which tailorings a family can express, and whose outer parts are not the base's."""

import functools
from collections.abc import Callable

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.errors import UserError
from gptailor.family import Family, tailored_config
from gptailor.family.layout import OUTER_PARTS

__all__ = ["expressible", "outer_variants"]


def expressible(family: Family) -> Callable[[Tailoring], bool] | None:
    """Whether the architecture's config can express a tailoring; None where it can express any."""
    if len(set(family.kinds)) == 1:
        return None

    @functools.cache  # asked for the same cuts over and over
    def positions_fit(positions: tuple[int, ...]) -> bool:
        try:
            tailored_config(family.config, positions)
        except UserError:
            return False
        return True

    return lambda tailoring: positions_fit(tuple(spec.position for spec in tailoring.layers))


def outer_variants(family: Family) -> tuple[str, ...]:
    """Variants whose embedding, norm or head is not the base's own."""
    return tuple(
        member
        for member in family.members
        if any(
            family.outer_part(part, member)[name] is not tensor
            for part in OUTER_PARTS
            for name, tensor in family.outer_part(part, BASE).items()
        )
    )
