"""Tailoring: the words in which a smaller model is written down.

Equal models are equal objects (see `gptailor.core.layer_spec`), so that ``==``, ``hash`` and
`Tailoring.digest` can be trusted. Knows nothing of weights; `Tailoring.check` is told how many
layers there are and which members.
"""

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gptailor.core.layer_spec import BASE, LayerSpec, Source, Value
from gptailor.errors import TailoringError, UserError, unknown
from gptailor.files.atomic import write_atomically
from gptailor.files.yaml import Column, dump_yaml, parse_yaml, read_yaml

__all__ = ["BASE", "FORMAT", "LayerSpec", "Source", "Tailoring", "Value"]

FORMAT = "gptailor/1"
_MAX_LAYERS = 1000  # the deepest models have some 130


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
    _hash: int = field(init=False, repr=False, compare=False)  # a search looks up thousands

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
        for part, spec in reversed(self.outer_parts.items()):  # the head before the norm it gives
            if any(source.layer is not None for source in spec.sources):
                raise TailoringError(f"{part}: {spec} names a layer; write the member alone")
        own = hash((self.layers, self.embedding, self.norm, self.head))
        object.__setattr__(self, "_hash", own)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """What it is made from: another process hashes text otherwise."""
        return Tailoring, (self.layers, self.embedding, self.norm, self.head)

    @property
    def outer_parts(self) -> dict[str, LayerSpec]:
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
            TailoringError: Every error, a sentence each.
        """
        if len(self.layers) > _MAX_LAYERS:
            raise TailoringError(
                f"layers: has {len(self.layers):,} layers; at most {_MAX_LAYERS:,} are made"
            )
        problems = []
        for place, spec in self._places():
            sources = [*spec.sources, *([spec.base] if spec.base else [])]
            for source in dict.fromkeys(sources):
                if source.member not in members:
                    problems.append(f"{place}: {unknown('member', source.member, members)}")
                elif source.layer is not None and source.layer >= n_layers:
                    problems.append(
                        f"{place}: {source} does not exist; layers go from 0 to {n_layers - 1}"
                    )
        if tied and self.embedding != self.head:
            problems.append(
                f"head: is {self.head} but the embedding is {self.embedding}; the members of this "
                "family tie the two, so name the same giver for both"
            )
        if problems:
            raise TailoringError(problems)

    def _places(self) -> list[tuple[str, LayerSpec]]:
        layers = [(f"layers[{index}]", spec) for index, spec in enumerate(self.layers)]
        return layers + list(self.outer_parts.items())

    def to_plain(self) -> dict[str, Any]:
        """The YAML form, short wherever it can be."""
        plain: dict[str, Any] = {"format": FORMAT, "embedding": self.embedding.to_plain()}
        if self.norm not in (None, self.head):
            plain["norm"] = self.outer_parts["norm"].to_plain()
        plain["head"] = self.head.to_plain()
        return plain | {"layers": [spec.to_plain() for spec in self.layers]}

    def to_yaml(self) -> str:
        """The text of a ``tailoring.yaml``."""
        plain = self.to_plain()
        return dump_yaml(plain | {"layers": Column(plain["layers"])})

    def save(self, path: Path) -> None:
        """Write a ``tailoring.yaml``: the old file or the new, never half of one."""
        write_atomically(path, self.to_yaml())

    @classmethod
    def load(cls, path: Path) -> "Tailoring":
        """Read a ``tailoring.yaml``.

        Raises:
            TailoringError: The file can't be read, or what it says is invalid.
        """
        return cls.from_plain(read_yaml(path, error_type=TailoringError), where=str(path))

    @classmethod
    def from_yaml(cls, text: str, where: str = "tailoring") -> "Tailoring":
        """Read the text of a ``tailoring.yaml``."""
        return cls.from_plain(parse_yaml(text, where=where, error_type=TailoringError), where=where)

    @classmethod
    def from_plain(cls, plain: object, where: str = "tailoring") -> "Tailoring":
        """Read the YAML form, telling every error at once.

        Raises:
            TailoringError: Every error, each naming `where` and the key.
        """
        if not isinstance(plain, Mapping):
            raise TailoringError(f"{where}: a tailoring is a mapping with 'format' and 'layers'")
        keys = ("format", "embedding", "norm", "head", "layers")
        problems = [f"{where}: {unknown('key', key, keys)}" for key in plain if key not in keys]
        if plain.get("format") != FORMAT:
            problems.append(f"{where}: format: must be {FORMAT!r}, not {plain.get('format')!r}")
        layers = plain.get("layers")
        if not isinstance(layers, list) or not layers:
            problems.append(f"{where}: layers: must be a list with at least one layer")
            layers = []
        read: dict[str, LayerSpec] = {}
        named = [(f"layers[{index}]", item) for index, item in enumerate(layers)]
        named += [(key, plain[key]) for key in keys[1:4] if key in plain]
        for place, item in named:
            try:
                read[place] = LayerSpec.from_plain(item)
            except UserError as error:
                problems += [f"{where}: {place}: {sentence}" for sentence in error.problems]
        if problems:
            raise TailoringError(problems)
        parts = {key: read.pop(key) for key in keys[1:4] if key in read}
        try:
            return cls(tuple(read.values()), **parts)
        except TailoringError as error:
            raise TailoringError([f"{where}: {sentence}" for sentence in error.problems]) from None
