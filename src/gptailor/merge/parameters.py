"""The parameters of one merge, checked and filled with defaults. Knows nothing of tensors."""

import math
from collections.abc import Mapping, Sequence

from gptailor.core.merge_spec import MERGE_METHODS, MergeSpec
from gptailor.errors import MergeError, unknown

__all__ = ["facts_of", "filled"]


def facts_of(name: str) -> MergeSpec:
    """Look up a method's facts.

    Raises:
        MergeError: There is no method of this name.
    """
    if name not in MERGE_METHODS:
        raise MergeError(unknown("merge method", name, MERGE_METHODS))
    return MERGE_METHODS[name]


def filled(facts: MergeSpec, params: Mapping[str, object], n_sources: int) -> dict[str, object]:
    """Check the parameters given and add the defaults of the others.

    Raises:
        MergeError: A parameter is unknown, or its value is out of its limits.
    """
    known = [*facts.params, *(["weights"] if facts.weighted else [])]
    for key in params:
        if key not in known:
            raise MergeError(
                unknown(f"parameter of {facts.name}", key, known)
                if known
                else f"{facts.name} takes no parameters; remove {key!r}"
            )
    complete: dict[str, object] = {}
    for key, limits in facts.params.items():
        value = params.get(key, limits.default)
        error = limits.problem(value)
        if error is not None:
            raise MergeError(f"{facts.name}: {key} {error}")
        complete[key] = int(value) if limits.integer else float(value)  # type: ignore[call-overload, arg-type]  # checked above
    if facts.weighted:
        complete["weights"] = _weights(facts, params.get("weights"), n_sources)
    return complete


def _weights(facts: MergeSpec, weights: object, n_sources: int) -> tuple[float, ...]:
    if weights is None:
        return (1.0,) * n_sources
    if not isinstance(weights, Sequence) or isinstance(weights, str) or len(weights) != n_sources:
        raise MergeError(
            f"{facts.name}: weights must be a list of {n_sources} numbers, one a source, "
            f"not {weights!r}"
        )
    for weight in weights:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise MergeError(f"{facts.name}: weights must be numbers of 0 or more, not {weight!r}")
    if not 0 < sum(weights) < math.inf:
        raise MergeError(f"{facts.name}: weights must have a positive, finite sum, not {weights!r}")
    return tuple(float(weight) for weight in weights)
