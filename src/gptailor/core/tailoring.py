"""Tailoring: a smaller model as data, and its YAML form.

Equal models are equal objects (see `LayerSpec`), so that ``==``, ``hash`` and
`Tailoring.digest` can be trusted.
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

__all__ = ["BASE", "FORMAT", "LayerSpec", "Source", "Tailoring", "Value", "is_recipe"]

FORMAT = "gptailor/1"
_MAX_LAYERS = 1000  # the deepest models have some 130
_OF_RECIPES = {"merge_method", "slices", "models", "modules", "experts"}


def is_recipe(plain: object) -> bool:
    """Whether plain data is a recipe of mergekit, and no tailoring."""
    return isinstance(plain, Mapping) and bool(_OF_RECIPES & plain.keys()) and "layers" not in plain


@dataclass(frozen=True, slots=True)
class Tailoring:
    """A smaller model: its layers in order, and the sources of its outer parts.

    Args:
        layers: One LayerSpec per layer of the result; a cut layer is absent.
        embedding: Source of the token embedding, without a layer.
        norm: Source of the final norm; the head's when None.
        head: Source of the output head.

    Raises:
        TailoringError: There is no layer, an outer part names a layer, or a layer names none.
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
        for part, spec in reversed(self.outer_parts.items()):  # the head before the norm like it
            if any(source.layer is not None for source in spec.sources):
                raise TailoringError(f"{part}: {spec} names a layer; write the member alone")
        own = hash((self.layers, self.embedding, self.norm, self.head))
        object.__setattr__(self, "_hash", own)

    def __hash__(self) -> int:
        return self._hash

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arguments, not the hash: another process hashes text differently."""
        return Tailoring, (self.layers, self.embedding, self.norm, self.head)

    @property
    def outer_parts(self) -> dict[str, LayerSpec]:
        """The LayerSpecs of ``embedding``, ``norm`` and ``head``."""
        norm = self.head if self.norm is None else self.norm
        return {"embedding": self.embedding, "norm": norm, "head": self.head}

    @property
    def digest(self) -> str:
        """Sixteen hex digits that are the same for equal tailorings, on every machine."""
        text = json.dumps(self.to_plain(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @classmethod
    def whole(cls, member: str, n_layers: int) -> "Tailoring":
        """All of one member: nothing cut, nothing merged."""
        part = LayerSpec((Source(member),))
        layers = tuple(LayerSpec((Source(member, layer),)) for layer in range(n_layers))
        return cls(layers, embedding=part, norm=part, head=part)

    def check(self, members: Collection[str], n_layers: int, *, tied: bool = False) -> None:
        """Check that the tailoring fits a family.

        Args:
            members: Names of the base and the variants.
            n_layers: How many layers each member has.
            tied: Whether the members use the embedding as the head.

        Raises:
            TailoringError: Every problem, a sentence each.
        """
        if len(self.layers) > _MAX_LAYERS:
            raise TailoringError(
                f"layers: has {len(self.layers):,} layers; at most {_MAX_LAYERS:,} are made"
            )
        problems = []
        layers = {f"layers[{index}]": spec for index, spec in enumerate(self.layers)}
        for key, spec in (layers | self.outer_parts).items():
            for source in dict.fromkeys(spec.all_sources):
                if source.member not in members:
                    problems.append(f"{key}: {unknown('member', source.member, members)}")
                elif source.layer is not None and source.layer >= n_layers:
                    problems.append(
                        f"{key}: {source} does not exist; layers go from 0 to {n_layers - 1}"
                    )
            if spec.refit_to is not None and spec.refit_to > n_layers:
                problems.append(
                    f"{key}: refit_to is {spec.refit_to}, beyond the {n_layers} layers of the "
                    "whole model; give the position after the cut"
                )
        if tied and self.embedding != self.head:
            problems.append(
                f"head: is {self.head} but the embedding is {self.embedding}; the members of this "
                "family tie the two, so give both the same source"
            )
        if problems:
            raise TailoringError(problems)

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
        """Write a ``tailoring.yaml``, atomically."""
        write_atomically(path, self.to_yaml())

    @classmethod
    def load(cls, path: Path) -> "Tailoring":
        """Read a ``tailoring.yaml``.

        Raises:
            TailoringError: The file can't be read, or its content is invalid.
        """
        return cls.from_plain(read_yaml(path, error_type=TailoringError), where=str(path))

    @classmethod
    def from_yaml(cls, text: str, where: str = "tailoring") -> "Tailoring":
        """Read the text of a ``tailoring.yaml``."""
        return cls.from_plain(parse_yaml(text, where=where, error_type=TailoringError), where=where)

    @classmethod
    def from_plain(cls, plain: object, where: str = "tailoring") -> "Tailoring":
        """Read the YAML form.

        Raises:
            TailoringError: Every problem, each naming `where` and the key.
        """
        if not isinstance(plain, Mapping):
            raise TailoringError(f"{where}: a tailoring is a mapping with 'format' and 'layers'")
        if is_recipe(plain):
            raise TailoringError(
                f"{where}: is a mergekit recipe, whose models are known with a config only; make "
                f"a tailoring of it with 'gptailor convert {where} --config tailor.yaml'"
            )
        if plain and not {"format", "layers"} & plain.keys():
            raise TailoringError(
                f"{where}: has neither 'format' nor 'layers', so it is no tailoring, and no "
                "mergekit recipe either"
            )
        keys = ("format", "embedding", "norm", "head", "layers")
        problems = [f"{where}: {unknown('key', key, keys)}" for key in plain if key not in keys]
        if plain.get("format") != FORMAT:
            problems.append(f"{where}: format: must be {FORMAT!r}, not {plain.get('format')!r}")
        layers = plain.get("layers")
        if not isinstance(layers, list) or not layers:
            problems.append(f"{where}: layers: must be a list with at least one layer")
            layers = []
        items = {f"layers[{index}]": item for index, item in enumerate(layers)}
        items |= {key: plain[key] for key in keys[1:4] if key in plain}
        specs: dict[str, LayerSpec] = {}
        for key, item in items.items():
            try:
                specs[key] = LayerSpec.from_plain(item)
            except UserError as error:
                problems += [f"{where}: {key}: {problem}" for problem in error.problems]
        if problems:
            raise TailoringError(problems)
        outer = {key: specs.pop(key) for key in keys[1:4] if key in specs}
        try:
            return cls(tuple(specs.values()), **outer)
        except TailoringError as error:
            raise TailoringError([f"{where}: {problem}" for problem in error.problems]) from None
