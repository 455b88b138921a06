"""Merge methods as data: names, parameters and symmetry, without torch.

Tailorings, configs and searchers need these before any weight is read.
"""

import inspect
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from gptailor.core.params import Range
from gptailor.core.plugins import MERGE_METHODS
from gptailor.errors import ConfigError, MergeError, unknown

__all__ = ["MergeSpec", "Value", "merge_method", "merge_spec", "method_name"]

Value = float | int | tuple[float, ...]

_WEIGHT = Range(-1e6, 1e6, default=1.0)
_RESERVED = ("base", "fitted", "gain", "merge", "refit_to", "source", "sources")  # YAML keys


@dataclass(frozen=True, slots=True)
class MergeSpec:
    """A merge method: its declaration, and the function that computes it.

    Args:
        name: What messages call the method.
        function: ``(tensors, base, **params)``, without ``base`` where none is needed.
        params: Its parameters and their limits. A ``seed`` is made anew for each tensor.
        needs_base: Whether it works on differences from the base's layer.
        symmetric: Whether the order of the sources has no effect.
        max_sources: The most sources it merges; None for any number.
        weighted: Whether it has ``weights``, one number per source; they sum to more than 0.
        scale: The parameter that multiplies the differences; at 0 the merge is the base's layer.
        identity: Parameter to value to the index of the source that the merge then equals.
    """

    name: str
    function: Callable[..., Any]
    params: Mapping[str, Range] = field(default_factory=dict)
    needs_base: bool = False
    symmetric: bool = True
    max_sources: int | None = None
    weighted: bool = False
    scale: str | None = None
    identity: Mapping[str, Mapping[Value, int]] = field(default_factory=dict)

    def declaration(self) -> dict[str, Any]:
        """All but the function, as JSON, so that a record can be read without the plug-in."""
        plain = asdict(self)
        del plain["function"]
        plain["identity"] = {key: list(found.items()) for key, found in self.identity.items()}
        return plain

    @classmethod
    def from_declaration(cls, plain: Mapping[str, Any]) -> "MergeSpec":
        """Read what `declaration` returned; the result can be checked against, not merged with.

        Raises:
            TypeError, ValueError: Something in it is no declaration.
        """

        def function(*_: object, **__: object) -> Any:
            raise MergeError(
                f"{plain['name']}: its code is not imported, the run only names it; import its "
                "module (export: --import MODULE), or install it with an entry point"
            )

        params = {key: Range(**limits) for key, limits in plain["params"].items()}
        identity = {key: dict(found) for key, found in plain["identity"].items()}
        return cls(**{**plain, "function": function, "params": params, "identity": identity})

    @property
    def keywords(self) -> tuple[str, ...]:
        """The names of all parameters, ``weights`` included."""
        return (*self.params, *(["weights"] if self.weighted else []))

    def scaled(self, value: float) -> dict[str, Value]:
        """The parameters that set the scale to `value`; none where it can't have this value."""
        if self.scale is None or self.params[self.scale].problem(value) is not None:
            return {}
        return {self.scale: value}

    def resolve(
        self, params: Mapping[str, object], sources: Collection[object]
    ) -> dict[str, Value]:
        """Check the parameters of a merge of `sources`, or of their names; fill in the defaults.

        Raises:
            MergeError: A parameter is unknown, a value is outside its limits, or there are too
                many sources.
        """
        n_sources = len(sources)
        if self.max_sources is not None and n_sources > self.max_sources:
            listed = ", ".join(map(str, sources))
            raise MergeError(
                f"{self.name} merges {self.max_sources} sources, not {n_sources}: {listed}"
            )
        for key in params:
            if key not in self.keywords:
                hint = "" if self.keywords else "none; remove it"
                raise MergeError(unknown(f"parameter of {self.name}", key, self.keywords) + hint)
        values: dict[str, Value] = {}
        for key, limits in self.params.items():
            value = params.get(key, limits.default)
            problem = limits.problem(value)
            if problem is not None or not isinstance(value, int | float):
                raise MergeError(f"{self.name}: {key} {problem}")
            values[key] = int(value) if limits.integer else float(value) + 0.0  # -0.0 is 0.0
        if self.weighted:
            values["weights"] = self._weights(params.get("weights", (1.0,) * n_sources), n_sources)
        return values

    def _weights(self, weights: object, n_sources: int) -> tuple[float, ...]:
        if not isinstance(weights, list | tuple) or len(weights) != n_sources:
            problem = f"must be a list of {n_sources} numbers, one per source, not {weights!r}"
            raise MergeError(f"{self.name}: weights {problem}")
        for weight in weights:
            if _WEIGHT.problem(weight) is not None:
                problem = (
                    f"must be numbers from {_WEIGHT.low:g} to {_WEIGHT.high:g}, not {weight!r}"
                )
                raise MergeError(f"{self.name}: weights {problem}")
        if math.fsum(weights) <= 0:
            raise MergeError(
                f"{self.name}: weights must sum to more than 0; give a source more weight"
            )
        return tuple(map(float, weights))


def merge_method(  # noqa: PLR0913  # the fields of MergeSpec, each a fact of its own
    name: str,
    *,
    params: Mapping[str, Range] | None = None,
    needs_base: bool = False,
    symmetric: bool = True,
    max_sources: int | None = None,
    weighted: bool = False,
    scale: str | None = None,
    identity: Mapping[str, Mapping[Value, int]] | None = None,
) -> Callable[[Callable[..., Any]], MergeSpec]:
    """Declare a function on tensors as a merge method; the arguments are `MergeSpec`'s.

    The function gets at least two finite float32 tensors of one shape, in the order of the sources;
    then the base's where the method needs it; and every parameter by keyword. It returns a new
    float32 tensor of that shape and leaves its inputs unchanged.

    Raises:
        MergeError: The function's keyword-only arguments are not the parameters declared.
    """
    facts = (params or {}, needs_base, symmetric, max_sources, weighted, scale, identity or {})

    def declare(function: Callable[..., Any]) -> MergeSpec:
        spec = MergeSpec(name, function, *facts)
        parameters = inspect.signature(function).parameters.values()
        found = {each.name for each in parameters if each.kind is each.KEYWORD_ONLY}
        if taken := found & set(_RESERVED):
            raise MergeError(
                f"merge method {name!r} has a parameter {min(taken)!r}, which tailorings use for "
                "something else; give it another name"
            )
        if found != set(spec.keywords):
            raise MergeError(
                f"merge method {name!r} declares the parameters {sorted(spec.keywords)}, but its "
                f"function has the keyword-only arguments {sorted(found)}; make them the same"
            )
        return spec

    return declare


def merge_spec(name: str) -> MergeSpec:
    """Look up a merge method.

    Raises:
        ConfigError: There is no such method, or it was not loaded.
    """
    found = MERGE_METHODS.get(name)
    if not isinstance(found, MergeSpec):
        kind = type(found).__name__
        raise ConfigError(
            f"merge method {name!r} is a {kind}; write @merge_method(...) above its function"
        )
    return found


def method_name(method: str | MergeSpec) -> str:
    """The name of a method in configs and tailorings: of an object, its ``module:attribute``."""
    if isinstance(method, str):
        return method
    place = f"{method.function.__module__}:{method.function.__qualname__}"
    return MERGE_METHODS.add(place, method)
