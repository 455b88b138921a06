"""Source, LayerSpec and Tailoring: the words in which a smaller model is written down.

Equal models are equal objects: what has no effect is dropped and what has no order is sorted when
an object is made, so that ``==``, ``hash`` and `Tailoring.digest` can be trusted. Knows nothing of
weights; `Tailoring.check` is told how many layers there are and which members.
"""

import hashlib
import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptailor.errors import TailoringError, UserError
from gptailor.methods import METHODS, MethodFacts
from gptailor.registry import unknown
from gptailor.yamlfile import dump_yaml, parse_yaml, read_yaml, write_atomically

__all__ = ["BASE", "FORMAT", "LayerSpec", "Source", "Tailoring", "Value"]

BASE = "base"
FORMAT = "gptailor/1"
Value = float | int | tuple[float, ...]

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
        TailoringError: The method is unknown, or a parameter, the sources or the base are at fault.
    """

    sources: tuple[Source, ...]
    method: str | None = None
    params: tuple[tuple[str, Value], ...] = ()
    base: Source | None = None

    def __post_init__(self) -> None:
        sources, params = tuple(self.sources), dict(self.params)
        _refuse_bad_sources(sources)
        if self.method is not None and self.method not in METHODS:
            raise TailoringError(unknown("merge method", self.method, METHODS))
        if self.method is None and len(sources) > 1:
            raise TailoringError(f"{_told(sources)} are to be merged, but no merge method is given")
        facts = METHODS[self.method] if self.method is not None else None
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
            raise TailoringError(f"a merge needs 'merge', one of {', '.join(METHODS)}")
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


@dataclass(frozen=True, slots=True)
class Tailoring:
    """A smaller model: its layers in order, and who gives what stands outside the layers.

    Args:
        layers: One LayerSpec for each layer of the result; a cut layer is absent.
        embedding: Who gives the token embedding; sources without a layer.
        norm: Who gives the final norm; the head's giver when None.
        head: Who gives the output head.

    Raises:
        TailoringError: There is no layer, or a part names a layer, or a layer names none.
    """

    layers: tuple[LayerSpec, ...]
    embedding: LayerSpec = field(default_factory=lambda: LayerSpec((Source(BASE),)))
    norm: LayerSpec | None = None
    head: LayerSpec = field(default_factory=lambda: LayerSpec((Source(BASE),)))

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "norm", self.head if self.norm is None else self.norm)
        if not self.layers:
            raise TailoringError("a tailoring needs at least one layer")
        for index, spec in enumerate(self.layers):
            if any(source.layer is None for source in spec.sources):
                raise TailoringError(
                    f"layers[{index}]: {spec} names no layer; write 'member:layer'"
                )
        for part, spec in self.parts.items():
            if any(source.layer is not None for source in spec.sources):
                raise TailoringError(f"{part}: {spec} names a layer; write the member alone")

    @property
    def parts(self) -> dict[str, LayerSpec]:
        """What stands outside the layers: ``embedding``, ``norm`` and ``head``."""
        norm = self.head if self.norm is None else self.norm
        return {"embedding": self.embedding, "norm": norm, "head": self.head}

    @property
    def digest(self) -> str:
        """Sixteen hex digits that are the same for equal tailorings, on every machine."""
        text = json.dumps(self.to_plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def whole(cls, member: str, n_layers: int) -> "Tailoring":
        """One member as it is: nothing cut, nothing merged."""
        part = LayerSpec((Source(member),))
        layers = tuple(LayerSpec((Source(member, layer),)) for layer in range(n_layers))
        return cls(layers, embedding=part, norm=part, head=part)

    def check(self, members: Collection[str], n_layers: int, *, tied: bool = False) -> None:
        """Hold the tailoring against a family.

        Args:
            members: Names of the base and the variants.
            n_layers: How many layers each member has.
            tied: Whether the members use the embedding as the head.

        Raises:
            TailoringError: Every fault, a sentence each.
        """
        faults = []
        for place, spec in self._places():
            sources = [*spec.sources, *([spec.base] if spec.base else [])]
            for source in dict.fromkeys(sources):
                if source.member not in members:
                    faults.append(f"{place}: {unknown('member', source.member, members)}")
                elif source.layer is not None and source.layer >= n_layers:
                    faults.append(
                        f"{place}: {source} does not exist; layers go from 0 to {n_layers - 1}"
                    )
        if tied and self.embedding != self.head:
            faults.append(
                f"head: is {self.head} but the embedding is {self.embedding}; the members of this "
                "family tie the two, so name the same giver for both"
            )
        if faults:
            raise TailoringError(faults)

    def _places(self) -> list[tuple[str, LayerSpec]]:
        layers = [(f"layers[{index}]", spec) for index, spec in enumerate(self.layers)]
        return layers + list(self.parts.items())

    def to_plain(self) -> dict[str, Any]:
        """The YAML form, short wherever it can be."""
        plain: dict[str, Any] = {"format": FORMAT, "embedding": self.embedding.to_plain()}
        if self.norm not in (None, self.head):
            plain["norm"] = self.parts["norm"].to_plain()
        plain["head"] = self.head.to_plain()
        return plain | {"layers": [spec.to_plain() for spec in self.layers]}

    def to_yaml(self) -> str:
        """The text of a ``tailoring.yaml``."""
        return dump_yaml(self.to_plain())

    def save(self, path: Path) -> None:
        """Write a ``tailoring.yaml``: the old file or the new, never half of one."""
        write_atomically(path, self.to_yaml())

    @classmethod
    def load(cls, path: Path) -> "Tailoring":
        """Read a ``tailoring.yaml``.

        Raises:
            TailoringError: The file can't be read, or what it says is at fault.
        """
        return cls.from_plain(read_yaml(path, error=TailoringError), where=str(path))

    @classmethod
    def from_yaml(cls, text: str, where: str = "tailoring") -> "Tailoring":
        """Read the text of a ``tailoring.yaml``."""
        return cls.from_plain(parse_yaml(text, where=where, error=TailoringError), where=where)

    @classmethod
    def from_plain(cls, plain: object, where: str = "tailoring") -> "Tailoring":
        """Read the YAML form, telling every fault at once.

        Raises:
            TailoringError: Every fault, each naming `where` and the key.
        """
        if not isinstance(plain, Mapping):
            raise TailoringError(f"{where}: a tailoring is a mapping with 'format' and 'layers'")
        keys = ("format", "embedding", "norm", "head", "layers")
        faults = [f"{where}: {unknown('key', key, keys)}" for key in plain if key not in keys]
        if plain.get("format") != FORMAT:
            faults.append(f"{where}: format: must be {FORMAT!r}, not {plain.get('format')!r}")
        layers = plain.get("layers")
        if not isinstance(layers, list) or not layers:
            faults.append(f"{where}: layers: must be a list with at least one layer")
            layers = []
        read: dict[str, LayerSpec] = {}
        named = [(f"layers[{index}]", item) for index, item in enumerate(layers)]
        named += [(key, plain[key]) for key in keys[1:4] if key in plain]
        for place, item in named:
            try:
                read[place] = LayerSpec.from_plain(item)
            except UserError as fault:
                faults += [f"{where}: {place}: {sentence}" for sentence in fault.faults]
        if faults:
            raise TailoringError(faults)
        parts = {key: read.pop(key) for key in keys[1:4] if key in read}
        try:
            return cls(tuple(read.values()), **parts)
        except TailoringError as fault:
            raise TailoringError([f"{where}: {sentence}" for sentence in fault.faults]) from None


def _refuse_bad_sources(sources: tuple[Source, ...]) -> None:
    if not sources:
        raise TailoringError("a layer needs at least one source")
    if len(set(sources)) < len(sources):
        raise TailoringError(f"{_told(sources)}: a source stands twice in one merge")
    if len({source.layer is None for source in sources}) > 1:
        raise TailoringError(f"{_told(sources)}: some name a layer and some do not")


def _checked_params(
    facts: MethodFacts, params: Mapping[str, Value], n_sources: int
) -> dict[str, Value]:
    known = [*facts.params, *(["weights"] if facts.weighted else [])]
    for key in params:
        if key not in known:
            raise TailoringError(unknown(f"parameter of {facts.name}", key, known))
    for key, limits in facts.params.items():
        fault = limits.fault(params.get(key, limits.default))
        if fault is not None:
            raise TailoringError(f"{facts.name}: {key} {fault}")
    filled: dict[str, Value] = {}
    for key, limits in facts.params.items():
        value = params.get(key, limits.default)
        filled[key] = int(value) if limits.integer else float(value)  # type: ignore[arg-type]  # checked above
    if facts.weighted:
        filled["weights"] = _shares(facts, params.get("weights", (1.0,) * n_sources), n_sources)
    return filled


def _shares(facts: MethodFacts, weights: object, n_sources: int) -> tuple[float, ...]:
    """Weights as shares of 1; each a finite number of 0 or more."""
    if not isinstance(weights, tuple) or len(weights) != n_sources:
        raise TailoringError(
            f"{facts.name}: weights must be a list of {n_sources} numbers, one a source"
        )
    for weight in weights:
        number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise TailoringError(
                f"{facts.name}: weights must be numbers of 0 or more, not {weight!r}"
            )
    total = math.fsum(weights)
    if total <= 0:
        raise TailoringError(f"{facts.name}: weights sum to 0; give at least one source a weight")
    if abs(total - 1) <= 1e-9:  # shares already: dividing again would change the last bit
        return tuple(float(weight) for weight in weights)
    return tuple(weight / total for weight in weights)


def _canonical(
    facts: MethodFacts,
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


def _base_of(facts: MethodFacts, sources: tuple[Source, ...], base: Source | None) -> Source | None:
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
