"""LayerSpec: which sources one layer of the result is made from, and how.

Equal layers are equal objects: a LayerSpec is brought into canonical form when it is made.
"""

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptailor.core.merge_spec import MergeSpec, Value, default_base, merge_spec, method_name
from gptailor.core.plugins import MERGE_METHODS
from gptailor.core.source import BASE, Source
from gptailor.errors import ConfigError, MergeError, TailoringError

__all__ = ["BASE", "LayerSpec", "Source", "Value"]


@dataclass(frozen=True, slots=True)
class LayerSpec:
    """How one layer of the result is made: taken from one source, or merged from several.

    Canonical when made, see `MergeSpec.canonical`: one source has no method; every parameter is
    present; sources are sorted where their order has no effect.

    Args:
        sources: Where the weights come from; several are merged.
        method: A merge method's name; None with one source.
        params: The method's parameters; missing ones take their defaults.
        base: The layer that differences are taken from; None for the base member's layer at the
            first source's index. Only methods that need a base have one.

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
        if self.method is None:
            if len(sources) > 1:
                raise TailoringError(
                    f"{_listed(sources)} are to be merged, but no merge method is given"
                )
            if params or self.base is not None:
                raise TailoringError(f"{sources[0]} has parameters, but no merge method is given")
            object.__setattr__(self, "sources", sources)
            object.__setattr__(self, "params", ())
            return
        try:
            merged, values, base = merge_spec(self.method).canonical(sources, params, self.base)
        except (ConfigError, MergeError) as error:
            raise TailoringError(error.problems) from None
        object.__setattr__(self, "sources", merged)
        object.__setattr__(self, "method", self.method if len(merged) > 1 else None)
        object.__setattr__(self, "params", tuple(sorted(values.items())))
        object.__setattr__(self, "base", base)

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
        """Base-model index whose config (attention type, MoE, RoPE) this layer uses."""
        layer = self.sources[0].layer
        return -1 if layer is None else layer

    @property
    def scale(self) -> float | None:
        """The factor of the differences from the base; None where the method has none."""
        key = None if self.method is None else merge_spec(self.method).scale
        value = dict(self.params).get(key or "")
        return None if isinstance(value, tuple) else value

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
        default = default_base(self.sources)
        items = [str(source) for source in self.sources]
        items += [f"{key}={_short(value)}" for key, value in self.params]
        items += [f"base={self.base}"] if self.base not in (None, default) else []
        return f"{self.method}({', '.join(items)})"

    def to_plain(self) -> Any:  # YAML's own types
        """The YAML form: ``math:2``, or a mapping with merge, parameters and sources."""
        if self.method is None:
            return str(self.sources[0])
        plain: dict[str, Any] = {"merge": self.method}
        plain |= {
            key: list(value) if isinstance(value, tuple) else value for key, value in self.params
        }
        if self.base not in (None, default_base(self.sources)):
            plain["base"] = str(self.base)
        return plain | {"sources": [str(source) for source in self.sources]}

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
        )


@functools.lru_cache(2**14)  # a record has the same layers thousands of times
def _taken(source: str) -> LayerSpec:
    return LayerSpec((Source.parse(source),))


def _refuse_bad_sources(sources: tuple[Source, ...]) -> None:
    if not sources:
        raise TailoringError("a layer needs at least one source")
    if len(set(sources)) < len(sources):
        raise TailoringError(f"{_listed(sources)}: a source stands twice in one merge")
    if len({source.layer is None for source in sources}) > 1:
        raise TailoringError(f"{_listed(sources)}: some name a layer and some do not")


def _listed(sources: Sequence[Source]) -> str:
    return ", ".join(map(str, sources))


def _short(value: Value) -> str:
    if isinstance(value, tuple):
        return "[" + ", ".join(f"{item:g}" for item in value) + "]"
    return f"{value:g}"
