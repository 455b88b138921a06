"""Source and LayerSpec: where one layer of the result comes from.

Equal layers are equal objects: what has no effect is dropped and what has no order is sorted when
an object is made. Knows nothing of weights, nor of how many layers there are.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptailor.core.merge_spec import MERGE_METHODS, MergeSpec
from gptailor.errors import TailoringError, unknown

__all__ = ["BASE", "LayerSpec", "Source", "Value"]

BASE = "base"
Value = float | int | tuple[float, ...]

_MAX_WEIGHT = 1e6
_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One layer of one member; or, with no layer, a member's embedding, norm or head.

    Args:
        member: The member's name in the family; the base is always ``base``.
        layer: The layer's position in that member, from 0.
    """

    member: str
    layer: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.member, str) or not _MEMBER.match(self.member):
            raise TailoringError(
                f"{self.member!r} is not a member's name; use letters, digits, '.', '_' and '-'"
            )
        whole = isinstance(self.layer, int) and not isinstance(self.layer, bool)
        if self.layer is not None and (not whole or self.layer < 0):
            raise TailoringError(f"the layer of {self.member!r} is {self.layer!r}; give 0 or more")

    @classmethod
    def parse(cls, text: object) -> "Source":
        """Read ``math:17``, or ``math`` for a part outside the layers.

        Raises:
            TailoringError: The text is neither.
        """
        if not isinstance(text, str):
            raise TailoringError(f"{text!r} is not a source; write one as 'member:layer'")
        member, colon, layer = text.partition(":")
        if not colon:
            return cls(member)
        if not re.fullmatch(r"[0-9]{1,6}", layer):
            raise TailoringError(f"{text!r} is not a source; write one as 'member:layer'")
        return cls(member, int(layer))

    def __str__(self) -> str:
        return self.member if self.layer is None else f"{self.member}:{self.layer}"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """How one layer of the result is made: taken from one source, or merged from several.

    Canonical when made: one source keeps no method; sources of a symmetric method are sorted by
    layer and member; every parameter is present; ``linear`` weights sum to 1 and sources of weight
    0 are dropped; a scale of 0 is the base's layer, a slerp at an end is that end's layer.

    Args:
        sources: Where the weights come from; several are merged.
        method: A merge method's name; None with one source.
        params: The method's parameters; missing ones take their defaults.
        base: The layer that differences are taken from; None for the base member's layer at the
            first source's position. Only methods that need a base have one.

    Raises:
        TailoringError: The method is unknown, or a parameter, the sources or the base are invalid.
    """

    sources: tuple[Source, ...]
    method: str | None = None
    params: tuple[tuple[str, Value], ...] = ()
    base: Source | None = None

    def __post_init__(self) -> None:
        sources, params = tuple(self.sources), dict(self.params)
        _refuse_bad_sources(sources)
        if self.method is not None and self.method not in MERGE_METHODS:
            raise TailoringError(unknown("merge method", self.method, MERGE_METHODS))
        if self.method is None and len(sources) > 1:
            raise TailoringError(f"{_told(sources)} are to be merged, but no merge method is given")
        facts = MERGE_METHODS[self.method] if self.method is not None else None
        if facts is None and (params or self.base is not None):
            raise TailoringError(f"{sources[0]} has parameters, but no merge method is given")
        if facts is not None and len(sources) > 1:
            sources, filled = _canonical(facts, sources, params, self.base)
        elif facts is not None:
            _checked_params(facts, params, len(sources))
        if facts is None or len(sources) == 1:
            self._set(sources, None, (), None)
            return
        base = _base_of(facts, sources, self.base)
        self._set(sources, facts.name, tuple(sorted(filled.items())), base)

    def _set(
        self,
        sources: tuple[Source, ...],
        method: str | None,
        params: tuple[tuple[str, Value], ...],
        base: Source | None,
    ) -> None:
        for name, value in zip(self.__slots__, (sources, method, params, base), strict=True):
            object.__setattr__(self, name, value)

    @classmethod
    def of(
        cls, *sources: str, merge: str | None = None, base: str | None = None, **params: Value
    ) -> "LayerSpec":
        """Write a LayerSpec in short.

        Example:
            >>> str(LayerSpec.of("math:1", "code:1", merge="task_arithmetic", scale=0.6))
            'task_arithmetic(code:1, math:1, scale=0.6)'
        """
        return cls(
            tuple(Source.parse(source) for source in sources),
            merge,
            tuple(params.items()),
            None if base is None else Source.parse(base),
        )

    @property
    def position(self) -> int:
        """The position in the original model whose kind of layer this is."""
        layer = self.sources[0].layer
        return -1 if layer is None else layer

    @property
    def members(self) -> tuple[str, ...]:
        """Every member whose weights are read, each once, in order."""
        named = [source.member for source in self.sources]
        if self.base is not None:
            named.append(self.base.member)
        return tuple(dict.fromkeys(named))

    def __str__(self) -> str:
        if self.method is None:
            return str(self.sources[0])
        default = _default_base(self.sources)
        told = [str(source) for source in self.sources]
        told += [f"{key}={_told_value(value)}" for key, value in self.params]
        told += [f"base={self.base}"] if self.base not in (None, default) else []
        return f"{self.method}({', '.join(told)})"

    def to_plain(self) -> Any:  # YAML's own types
        """The YAML form: ``math:2``, or a mapping with merge, parameters and sources."""
        if self.method is None:
            return str(self.sources[0])
        plain: dict[str, Any] = {"merge": self.method}
        plain |= {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.params
        }
        if self.base not in (None, _default_base(self.sources)):
            plain["base"] = str(self.base)
        return plain | {"sources": [str(source) for source in self.sources]}

    @classmethod
    def from_plain(cls, plain: object) -> "LayerSpec":
        """Read the YAML form.

        Raises:
            TailoringError: It is not a source, nor a mapping with merge and sources.
        """
        if isinstance(plain, str):
            return cls((Source.parse(plain),))
        if not isinstance(plain, Mapping):
            raise TailoringError(f"{plain!r} is neither 'member:layer' nor a merge")
        rest = dict(plain)
        sources, merge, base = (
            rest.pop("sources", None),
            rest.pop("merge", None),
            rest.pop("base", None),
        )
        if not isinstance(sources, Sequence) or isinstance(sources, str) or not sources:
            raise TailoringError("a merge needs 'sources', a list such as [code:1, math:1]")
        if not isinstance(merge, str):
            raise TailoringError(f"a merge needs 'merge', one of {', '.join(MERGE_METHODS)}")
        params = {
            str(key): tuple(value) if isinstance(value, list) else value
            for key, value in rest.items()
        }
        return cls(
            tuple(Source.parse(source) for source in sources),
            merge,
            tuple(params.items()),
            None if base is None else Source.parse(base),
        )


def _refuse_bad_sources(sources: tuple[Source, ...]) -> None:
    if not sources:
        raise TailoringError("a layer needs at least one source")
    if len(set(sources)) < len(sources):
        raise TailoringError(f"{_told(sources)}: a source stands twice in one merge")
    if len({source.layer is None for source in sources}) > 1:
        raise TailoringError(f"{_told(sources)}: some name a layer and some do not")


def _checked_params(
    facts: MergeSpec, params: Mapping[str, Value], n_sources: int
) -> dict[str, Value]:
    known = [*facts.params, *(["weights"] if facts.weighted else [])]
    for key in params:
        if key not in known:
            raise TailoringError(unknown(f"parameter of {facts.name}", key, known))
    for key, limits in facts.params.items():
        error = limits.problem(params.get(key, limits.default))
        if error is not None:
            raise TailoringError(f"{facts.name}: {key} {error}")
    filled: dict[str, Value] = {}
    for key, limits in facts.params.items():
        value: Any = params.get(key, limits.default)
        filled[key] = int(value) if limits.integer else float(value) + 0.0  # -0.0 is 0.0
    if facts.weighted:
        filled["weights"] = _shares(facts, params.get("weights", (1.0,) * n_sources), n_sources)
    return filled


def _shares(facts: MergeSpec, weights: object, n_sources: int) -> tuple[float, ...]:
    """Weights as shares of 1."""
    if not isinstance(weights, tuple) or len(weights) != n_sources:
        raise TailoringError(
            f"{facts.name}: weights must be a list of {n_sources} numbers, one a source"
        )
    for weight in weights:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not 0 <= weight <= _MAX_WEIGHT:  # NaN is not between
            raise TailoringError(
                f"{facts.name}: weights must be numbers from 0 to {_MAX_WEIGHT:g}, not {weight!r}"
            )
    total = math.fsum(weights)
    if total <= 0:
        raise TailoringError(f"{facts.name}: weights sum to 0; give at least one source a weight")
    if abs(total - 1) <= 1e-9:  # shares already: dividing again would change the last bit
        return tuple(float(weight) for weight in weights)
    return tuple(weight / total for weight in weights)


def _canonical(
    facts: MergeSpec,
    sources: tuple[Source, ...],
    params: Mapping[str, Value],
    base: Source | None,
) -> tuple[tuple[Source, ...], dict[str, Value]]:
    """Sort what has no order; drop what has no effect."""
    if facts.max_sources is not None and len(sources) > facts.max_sources:
        raise TailoringError(
            f"{facts.name} merges {facts.max_sources} sources, not {len(sources)}: {_told(sources)}"
        )
    filled = _checked_params(facts, params, len(sources))
    weights = filled.get("weights")
    pairs = list(zip(sources, weights if isinstance(weights, tuple) else sources, strict=True))
    if facts.symmetric:
        pairs.sort(
            key=lambda pair: (-1 if pair[0].layer is None else pair[0].layer, pair[0].member)
        )
    if isinstance(weights, tuple):
        pairs = [pair for pair in pairs if pair[1] != 0]
        filled["weights"] = tuple(weight for _, weight in pairs)  # type: ignore[misc]  # weights are floats
    sources = tuple(source for source, _ in pairs)
    if facts.needs_base and filled.get("scale") == 0:
        return (_default_base(sources) if base is None else base,), {}
    if facts.name == "slerp" and filled["t"] in (0.0, 1.0):
        return (sources[0] if filled["t"] == 0.0 else sources[1],), {}
    return sources, filled


def _default_base(sources: tuple[Source, ...]) -> Source:
    return Source(BASE, sources[0].layer)


def _base_of(facts: MergeSpec, sources: tuple[Source, ...], base: Source | None) -> Source | None:
    if not facts.needs_base:
        if base is not None:
            raise TailoringError(f"{facts.name} takes no base; remove 'base: {base}'")
        return None
    if base is not None and (base.layer is None) != (sources[0].layer is None):
        raise TailoringError(f"base: {base} does not go with {_told(sources)}")
    return _default_base(sources) if base is None else base


def _told(sources: tuple[Source, ...]) -> str:
    return ", ".join(str(source) for source in sources)


def _told_value(value: Value) -> str:
    return (
        "[" + ", ".join(f"{item:g}" for item in value) + "]"
        if isinstance(value, tuple)
        else f"{value:g}"
    )
