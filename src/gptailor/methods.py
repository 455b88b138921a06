"""What is true of each merge method, without the tensors.

A method's name, parameters and symmetry are words that tailorings, configs and searchers need
long before any weight is read; the formulas live in `gptailor.merge` and are bound to these names.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from gptailor.params import Range

__all__ = ["METHODS", "MethodFacts"]


@dataclass(frozen=True, slots=True)
class MethodFacts:
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

METHODS: dict[str, MethodFacts] = {
    facts.name: facts
    for facts in (
        MethodFacts("task_arithmetic", {"scale": _SCALE}, needs_base=True),
        MethodFacts("linear", weighted=True),
        MethodFacts("slerp", {"t": Range(0.0, 1.0, default=0.5)}, symmetric=False, max_sources=2),
        MethodFacts("ties", {"density": _DENSITY, "scale": _SCALE}, needs_base=True),
        MethodFacts(
            "dare_ties", {"density": _DENSITY, "scale": _SCALE, "seed": _SEED}, needs_base=True
        ),
        MethodFacts(
            "dare_linear", {"density": _DENSITY, "scale": _SCALE, "seed": _SEED}, needs_base=True
        ),
        MethodFacts(
            "breadcrumbs",
            {
                "density": Range(0.0, 1.0, default=0.9, search_low=0.5),
                "gamma": Range(0.0, 1.0, default=0.01, search_high=0.1),
                "scale": _SCALE,
            },
            needs_base=True,
        ),
        MethodFacts("model_stock", needs_base=True),
    )
}
