"""What is true of each merge method, without the tensors.

A method's name, parameters and symmetry are words that tailorings, configs and searchers need
long before any weight is read; the formulas live in `gptailor.merge` and are bound to these names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gptailor.core.params import Range

__all__ = ["MERGE_METHODS", "MergeSpec"]


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """The facts of one merge method.

    Args:
        name: The name in configs, tailorings and `gptailor.merge.merge`.
        params: Its parameters and their limits.
        needs_base: Whether it works on differences from the base's layer.
        symmetric: Whether the order of the sources is without meaning.
        max_sources: The most sources it takes; None for any number (two are always needed).
        weighted: Whether it takes ``weights``, one number a source.
    """

    name: str
    params: Mapping[str, Range] = field(default_factory=dict)
    needs_base: bool = False
    symmetric: bool = True
    max_sources: int | None = None
    weighted: bool = False


_SCALE = Range(0.0, 2.0, default=0.5, search_high=1.0)
_DENSITY = Range(0.0, 1.0, default=0.5, search_low=0.1)
_SEED = Range(0, 2**31 - 1, default=0, integer=True, tunable=False)

MERGE_METHODS: dict[str, MergeSpec] = {
    facts.name: facts
    for facts in (
        MergeSpec("task_arithmetic", {"scale": _SCALE}, needs_base=True),
        MergeSpec("linear", weighted=True),
        MergeSpec("slerp", {"t": Range(0.0, 1.0, default=0.5)}, symmetric=False, max_sources=2),
        MergeSpec("ties", {"density": _DENSITY, "scale": _SCALE}, needs_base=True),
        MergeSpec(
            "dare_ties", {"density": _DENSITY, "scale": _SCALE, "seed": _SEED}, needs_base=True
        ),
        MergeSpec(
            "dare_linear", {"density": _DENSITY, "scale": _SCALE, "seed": _SEED}, needs_base=True
        ),
        MergeSpec(
            "breadcrumbs",
            {
                "density": Range(0.0, 1.0, default=0.9, search_low=0.5),
                "gamma": Range(0.0, 1.0, default=0.01, search_high=0.1),
                "scale": _SCALE,
            },
            needs_base=True,
        ),
        MergeSpec("model_stock", needs_base=True),
    )
}
