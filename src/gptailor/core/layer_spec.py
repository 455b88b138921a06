"""LayerSpec: which sources one layer of the result is made from, and how.

Equal layers are equal objects: a LayerSpec is brought into canonical form when it is made.
"""

import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gptailor.core.merge_spec import MergeSpec, Value, merge_spec, method_name
from gptailor.core.plugins import MERGE_METHODS
from gptailor.errors import ConfigError, MergeError, TailoringError, unknown

__all__ = ["BASE", "LayerSpec", "Source", "Value"]

BASE = "base"

_MEMBER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\Z")
_DIGEST = re.compile(r"[0-9a-f]{16}\Z")
_REPAIRS = ("gain", "refit_to", "fitted")


@dataclass(frozen=True, slots=True, order=True)
class Source:
    """One layer of one member, from 0; or, with no layer, a member's embedding, norm or head.

    Raises:
        TailoringError: The name or the index is invalid.
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
        """Read ``math:17``, or ``math`` for an outer part.

        Raises:
            TailoringError: The text is neither.
        """
        if not isinstance(text, str):
            raise TailoringError(f"{text!r} is not a source; write one as 'member:layer'")
        return _parse(text)

    def __str__(self) -> str:
        return self.member if self.layer is None else f"{self.member}:{self.layer}"


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """How one layer of the result is made: taken from one source, or merged from several.

    Canonical when made: sources are sorted by layer, then member, where their order has no effect;
    those of weight 0 are dropped, and weights are shares of 1; every parameter is present; a merge
    that equals one source is that source, without a method.

    Args:
        sources: Where the weights come from; several are merged.
        method: A merge method's name; None with one source.
        params: The method's parameters; missing ones take their defaults.
        base: The layer that differences are taken from; None for the base member's layer at the
            first source's index. Only methods that need a base have one.
        gain: Factor of what the layer adds to the residual stream.
        refit_to: The layer is refitted: the stream after it is to be the one that enters this
            position of the whole model, the end of the cut behind it if there is one.
        fitted: Digest of fitted tensors that replace some of the layer's own, 16 hex digits;
            with `refit_to` alone, they are fitted from the uncut members where they are needed.

    Raises:
        TailoringError: The method is unknown, or a parameter, the sources, the base or a repair is
            invalid.
    """

    sources: tuple[Source, ...]
    method: str | None = None
    params: tuple[tuple[str, Value], ...] = ()
    base: Source | None = None
    gain: float = 1.0
    refit_to: int | None = None
    fitted: str | None = None

    def __post_init__(self) -> None:
        sources, params = tuple(self.sources), dict(self.params)
        _refuse_bad_sources(sources)
        _refuse_bad_repair(sources, self.gain, self.refit_to, self.fitted)
        base = self.base
        if self.method is None:
            if len(sources) > 1:
                raise TailoringError(
                    f"{_listed(sources)} are to be merged, but no merge method is given"
                )
            if params or base is not None:
                raise TailoringError(f"{sources[0]} has parameters, but no merge method is given")
        else:
            try:
                sources, params, base = _canonical(merge_spec(self.method), sources, params, base)
            except (ConfigError, MergeError) as error:
                raise TailoringError(error.problems) from None
        object.__setattr__(self, "sources", sources)
        object.__setattr__(self, "method", self.method if len(sources) > 1 else None)
        object.__setattr__(self, "params", tuple(sorted(params.items())))
        object.__setattr__(self, "base", base)
        object.__setattr__(self, "gain", float(self.gain))

    @classmethod
    def of(
        cls,
        *sources: str,
        merge: str | MergeSpec | None = None,
        base: str | None = None,
        **params: Value,
    ) -> "LayerSpec":
        """Make a LayerSpec from the text forms of its sources.

        Example:
            >>> str(LayerSpec.of("math:1", "code:1", merge="task_arithmetic", scale=0.6))
            'task_arithmetic(code:1, math:1, scale=0.6)'
        """
        return cls(
            tuple(Source.parse(source) for source in sources),
            None if merge is None else method_name(merge),
            tuple(params.items()),
            None if base is None else Source.parse(base),
        )

    @property
    def position(self) -> int:
        """Base-model index whose config (attention type, MoE, RoPE) this layer uses.

        That of the first source; -1 for an outer part.
        """
        layer = self.sources[0].layer
        return -1 if layer is None else layer

    @property
    def start(self) -> int:
        """The lowest index of all sources: a merge stands for layers from there on."""
        return min(-1 if each.layer is None else each.layer for each in self.all_sources)

    @property
    def spans(self) -> bool:
        """Whether the sources are of several positions."""
        return len({each.layer for each in self.all_sources}) > 1

    @property
    def scale(self) -> float | None:
        """The factor of the differences from the base; None where the method has none."""
        key = None if self.method is None else merge_spec(self.method).scale
        value = dict(self.params).get(key or "")
        return None if isinstance(value, tuple) else value

    @property
    def repaired(self) -> bool:
        """Whether its weights differ from what the sources and the merge method give."""
        return self.gain != 1.0 or self.refit_to is not None or self.fitted is not None

    def with_repair(
        self, *, gain: float = 1.0, refit_to: int | None = None, fitted: str | None = None
    ) -> "LayerSpec":
        """The same layer with this repair instead of its own; without arguments, with none."""
        repair = (gain, refit_to, fitted)
        if repair == (self.gain, self.refit_to, self.fitted):
            return self
        return LayerSpec(self.sources, self.method, self.params, self.base, *repair)

    def with_sources(self, change: Callable[[Source], Source]) -> "LayerSpec":
        """The same merge and repair of other sources, the base of differences changed too."""
        base = None if self.base is None else change(self.base)
        return replace(self, sources=tuple(map(change, self.sources)), base=base)

    def moved(self, shift: int) -> "LayerSpec":
        """The same members, parameters and repair, `shift` positions later."""
        return self.with_sources(lambda each: replace(each, layer=(each.layer or 0) + shift))

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources, and the base of differences."""
        return self.sources if self.base is None else (*self.sources, self.base)

    @property
    def members(self) -> tuple[str, ...]:
        """Every member whose weights are read, each once, in order."""
        return tuple(dict.fromkeys(source.member for source in self.all_sources))

    def __str__(self) -> str:
        repair = "".join(f", {key} {value}" for key, value in self._repair.items())
        if self.method is None:
            return f"{self.sources[0]}{repair}"
        default = _default_base(self.sources)
        items = [str(source) for source in self.sources]
        items += [f"{key}={_short(value)}" for key, value in self.params]
        items += [f"base={self.base}"] if self.base not in (None, default) else []
        return f"{self.method}({', '.join(items)}){repair}"

    @property
    def _repair(self) -> dict[str, Any]:
        """The YAML keys of the repair; none where there is none."""
        gain = {} if self.gain == 1.0 else {"gain": self.gain}
        others = {"refit_to": self.refit_to, "fitted": self.fitted}
        return gain | {key: value for key, value in others.items() if value is not None}

    def to_plain(self) -> Any:  # YAML's own types
        """The YAML form: ``math:2``, or a mapping with a source, or merge and sources."""
        if self.method is None:
            source = str(self.sources[0])
            return {"source": source, **self._repair} if self.repaired else source
        plain: dict[str, Any] = {"merge": self.method}
        plain |= {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.params
        }
        if self.base not in (None, _default_base(self.sources)):
            plain["base"] = str(self.base)
        return plain | {"sources": [str(source) for source in self.sources]} | self._repair

    @classmethod
    def from_plain(cls, plain: object) -> "LayerSpec":
        """Read the YAML form.

        Raises:
            TailoringError: It is not a source, nor a mapping with merge and sources.
        """
        if isinstance(plain, str):
            return _taken(plain)
        if not isinstance(plain, Mapping):
            raise TailoringError(f"{plain!r} is neither 'member:layer' nor a merge")
        rest = dict(plain)
        repair = {key: rest.pop(key) for key in _REPAIRS if key in rest}
        if "source" in rest and "merge" not in rest:
            source = Source.parse(rest.pop("source"))
            if rest:
                raise TailoringError(f"{source}: {unknown('key', next(iter(rest)), _REPAIRS)}")
            return cls((source,), **repair)
        sources, merge, base = (rest.pop(key, None) for key in ("sources", "merge", "base"))
        if not isinstance(sources, Sequence) or isinstance(sources, str) or not sources:
            raise TailoringError("a merge needs 'sources', a list such as [code:1, math:1]")
        if not isinstance(merge, str):
            raise TailoringError(f"a merge needs 'merge', one of {', '.join(MERGE_METHODS.names)}")
        params = {
            str(key): tuple(value) if isinstance(value, list) else value
            for key, value in rest.items()
        }
        return cls(
            tuple(Source.parse(source) for source in sources),
            merge,
            tuple(params.items()),
            None if base is None else Source.parse(base),
            **repair,
        )


@functools.lru_cache(2**14)  # a record names the same layers thousands of times
def _parse(text: str) -> Source:
    member, colon, layer = text.partition(":")
    if not colon:
        return Source(member)
    if not re.fullmatch(r"[0-9]{1,6}", layer):
        raise TailoringError(f"{text!r} is not a source; write one as 'member:layer'")
    return Source(member, int(layer))


@functools.lru_cache(2**14)
def _taken(source: str) -> LayerSpec:
    return LayerSpec((Source.parse(source),))


def _refuse_bad_sources(sources: tuple[Source, ...]) -> None:
    if not sources:
        raise TailoringError("a layer needs at least one source")
    if len(set(sources)) < len(sources):
        raise TailoringError(f"{_listed(sources)}: a source appears twice in one merge")
    if len({source.layer is None for source in sources}) > 1:
        raise TailoringError(f"{_listed(sources)}: some name a layer and some do not")


def _refuse_bad_repair(
    sources: tuple[Source, ...], gain: object, refit_to: object, fitted: object
) -> None:
    """Refuse a repair with an invalid value, or one of an outer part."""
    position = sources[0].layer
    if isinstance(gain, bool) or not isinstance(gain, int | float) or not 1e-6 <= gain <= 1e6:
        raise TailoringError(f"{sources[0]}: gain must be a number from 1e-06 to 1e+06: {gain!r}")
    whole = isinstance(refit_to, int) and not isinstance(refit_to, bool)
    if refit_to is not None and (not whole or position is None or refit_to <= position):  # type: ignore[operator]  # an int here
        raise TailoringError(
            f"{sources[0]}: refit_to must be the position after the cut behind it, not {refit_to!r}"
        )
    if fitted is not None and not (isinstance(fitted, str) and _DIGEST.match(fitted)):
        raise TailoringError(f"{sources[0]}: fitted must be 16 hex digits, not {fitted!r}")
    if position is None and (gain != 1 or fitted is not None):
        raise TailoringError(f"{sources[0]}: only layers are repaired")


def _canonical(
    method: MergeSpec,
    sources: tuple[Source, ...],
    params: Mapping[str, object],
    base: Source | None,
) -> tuple[tuple[Source, ...], dict[str, Value], Source | None]:
    """The sources, parameters and base of a merge, so written that equal merges are equal."""
    values = method.resolve(params, sources)
    order = list(range(len(sources)))
    if method.symmetric:
        order.sort(key=lambda index: (sources[index].layer or 0, sources[index].member))
    weights = values.get("weights")
    if isinstance(weights, tuple):
        shares = _shares(weights)
        order = [index for index in order if shares[index] != 0]
        values["weights"] = tuple(shares[index] for index in order)
    merged = tuple(sources[index] for index in order)
    origin = base or _default_base(merged)
    if len(merged) > 1:
        merged = _unmerged(method, merged, values, origin)
    if len(merged) == 1:
        return merged, {}, None
    if base is not None and not method.needs_base:
        raise TailoringError(f"{method.name} takes no base; remove 'base: {base}'")
    if (origin.layer is None) != (merged[0].layer is None):
        raise TailoringError(f"base: {base} does not go with {_listed(merged)}")
    return merged, values, origin if method.needs_base else None


def _unmerged(
    method: MergeSpec, sources: tuple[Source, ...], values: Mapping[str, Value], base: Source
) -> tuple[Source, ...]:
    """The one source that a merge equals at these values, or all of them."""
    if method.scale is not None and values[method.scale] == 0:
        return (base,)
    for key, ends in method.identity.items():
        if values[key] in ends:
            return (sources[ends[values[key]]],)
    return sources


def _default_base(sources: Sequence[Source]) -> Source:
    """The base member's layer at the first source's index."""
    return Source(BASE, sources[0].layer)


def _shares(weights: Sequence[float]) -> tuple[float, ...]:
    total = math.fsum(weights)
    if abs(total - 1) <= 1e-9:  # shares already: dividing again would change the last bit
        return tuple(weights)
    return tuple(weight / total for weight in weights)


def _listed(sources: Sequence[Source]) -> str:
    return ", ".join(map(str, sources))


def _short(value: Value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:g}" for item in value) + "]"
    return f"{value:g}"
