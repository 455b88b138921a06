"""Read a mergekit recipe as a tailoring, where a tailoring can say the same.

That is a recipe of slices, or of whole models, that are passed through or merged by one method with
plain numbers. mergekit takes the embedding as it takes the first slice, norm and head as the last.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.errors import TailoringError, listed

__all__ = ["tailoring_of_recipe"]

_READ = ("passthrough", "linear", "slerp", "task_arithmetic", "ties")
_KNOWN = {"merge_method", "slices", "base_model", "parameters", "dtype", "out_dtype"}
_KNOWN |= {"tokenizer_source", "models", "name"}  # mergekit-multi names its recipes


class _Unsaid(Exception):  # not an error yet: the caller names the file
    """What of a recipe no tailoring says."""


def tailoring_of_recipe(
    plain: Mapping[str, Any],
    members: Mapping[str, str],
    where: str,
    n_layers: Callable[[], int],
) -> Tailoring:
    """The tailoring that makes the model of a recipe.

    Args:
        plain: The recipe.
        members: The name of a model in a recipe to the name of the member that it is.
        where: What to call the recipe in messages.
        n_layers: Returns how many layers each member has; asked for a recipe of whole models alone.

    Raises:
        TailoringError: One sentence: what of it can't be said.
    """
    try:
        return _tailoring(plain, members, n_layers)
    except (_Unsaid, TailoringError) as what:
        raise TailoringError(
            f"{where}: is a mergekit recipe, and no tailoring can say all of it: {what}"
        ) from None


def _tailoring(
    plain: Mapping[str, Any], members: Mapping[str, str], n_layers: Callable[[], int]
) -> Tailoring:
    method, slices = plain.get("merge_method"), plain.get("slices")
    if method not in _READ:
        raise _Unsaid(f"merge_method is {method!r}; these are read: {', '.join(_READ)}")
    if other := sorted(map(str, plain.keys() - _KNOWN)):
        raise _Unsaid(f"it has the keys {listed(other)}")
    if plain.get("models") is not None:
        if slices is not None:
            raise _Unsaid("it has both slices and models")
        slices = [{"sources": _whole_models(plain, members, n_layers)}]
    if not isinstance(slices, list) or not slices:
        raise _Unsaid("it has neither slices nor models")
    if plain.get("tokenizer_source") not in (None, "base"):
        raise _Unsaid(f"tokenizer_source is {plain['tokenizer_source']!r}")
    base = plain.get("base_model")
    base = None if base is None else _named(base, members, "base_model")
    specs, ends = [], []
    for index, slice_ in enumerate(slices):
        place, sources = f"slices[{index}]", _sources(slice_, f"slices[{index}]")
        named = [_member(source, members, place) for source in sources]
        ranges = [_range(source, place) for source in sources]
        if len({len(one) for one in ranges}) > 1:
            raise _Unsaid(f"{place}: its sources must be as many layers each")
        above = [slice_.get("parameters"), plain.get("parameters")]
        levels = [[source.get("parameters"), *above] for source in sources]
        how = _Slice(method, levels, base, place)
        for layers in (*zip(*ranges, strict=True), (None,) * len(named)):
            made = [Source(name, layer) for name, layer in zip(named, layers, strict=True)]
            specs.append(how.spec(made))
        ends.append(specs.pop())
    return Tailoring(tuple(specs), embedding=ends[0], norm=ends[-1], head=ends[-1])


def _sources(slice_: Any, place: str) -> list[Any]:
    sources = slice_.get("sources") if isinstance(slice_, Mapping) else None
    if not isinstance(sources, list) or not sources:
        raise _Unsaid(f"{place}: it must have a list of sources, one at least")
    return sources


def _whole_models(
    plain: Mapping[str, Any], members: Mapping[str, str], n_layers: Callable[[], int]
) -> list[dict[str, Any]]:
    """The sources of a slice of all layers; mergekit adds the base model where it is not one."""
    models = plain["models"]
    if not isinstance(models, list) or not models:
        raise _Unsaid("models must be a list, one at least")
    if {"layer_range"} & {key for each in models if isinstance(each, Mapping) for key in each}:
        raise _Unsaid("models: a layer_range belongs to the sources of a slice")
    base = plain.get("base_model")
    if base is not None:
        inside = [_member(model, members, "models") for model in models]
        if _named(base, members, "base_model") not in inside:
            models = [*models, {"model": base}]
    _member(models[0], members, "models")  # before the members are opened
    whole = [0, n_layers()]
    return [{**model, "layer_range": whole} for model in models if isinstance(model, Mapping)]


@dataclass(frozen=True, slots=True)
class _Slice:
    """How a slice is merged: settings of each source, nearest first, and the base model."""

    method: str
    levels: Sequence[Sequence[Any]]
    base: str | None
    place: str

    def number(self, key: str, default: float, index: int = 0) -> float:
        """A setting of a source; one that differs by layer or tensor is refused."""
        levels = [level for level in self.levels[index] if isinstance(level, Mapping)]
        value = next((level[key] for level in levels if key in level), default)
        if not isinstance(value, int | float):
            raise _Unsaid(f"{self.place}: {key} is {value!r}, which differs by layer or tensor")
        return float(value)

    def spec(self, sources: list[Source]) -> LayerSpec:
        """What it makes of one layer, or outer part, of each source."""
        given = {k for each in self.levels for one in each if isinstance(one, Mapping) for k in one}
        if other := sorted(map(str, given - _KEYS[self.method] - {"int8_mask"})):
            raise _Unsaid(f"{self.place}: its parameters {listed(other)}")
        if self.method == "passthrough":
            if len(sources) != 1:
                raise _Unsaid(f"{self.place}: passthrough takes one source")
            return LayerSpec((sources[0],))
        if self.method == "linear":
            return self._linear(sources)
        if self.base is None:
            raise _Unsaid(f"{self.method} needs base_model")
        return self._slerp(sources) if self.method == "slerp" else self._of_base(sources, self.base)

    def _linear(self, sources: list[Source]) -> LayerSpec:
        if not self.number("normalize", 1.0):
            raise _Unsaid("linear without normalize")
        weights = tuple(self.number("weight", 1.0, index) for index in range(len(sources)))
        if len(sources) == 1:
            return LayerSpec((sources[0],))
        return LayerSpec(tuple(sources), "linear", (("weights", weights),))

    def _slerp(self, sources: list[Source]) -> LayerSpec:
        inside = [source for source in sources if source.member == self.base]
        if len(sources) != 2 or len(inside) != 1:
            raise _Unsaid(f"{self.place}: slerp takes the base_model and one other source")
        (other,) = (source for source in sources if source.member != self.base)
        return LayerSpec((inside[0], other), "slerp", (("t", self.number("t", 0.5)),))

    def _of_base(self, sources: list[Source], base: str) -> LayerSpec:
        """Task arithmetic or TIES: a sum of differences from the base model."""
        others = [index for index, source in enumerate(sources) if source.member != base]
        inside = [source for source in sources if source.member == base]
        if not others:
            return LayerSpec((inside[0],))
        chosen = tuple(sources[index] for index in others)
        start = inside[0] if inside else Source(base, chosen[0].layer)
        scale = self.number("lambda", 1.0)
        weights = [self.number("weight", 1.0, index) for index in others]
        if self.method == "ties":
            density = self._density(others)
            if len(set(weights)) > 1:
                raise _Unsaid(f"{self.place}: weight is not the same for all sources")
            if len(chosen) > 1:
                return LayerSpec(chosen, "ties", (("scale", scale), ("density", density)), start)
            if density != 1.0:
                raise _Unsaid(f"{self.place}: ties trims the differences of a single model")
            weights = [1.0]
        scaled = [scale * weight for weight in weights]
        if len(chosen) > 1 and len(set(scaled)) == 1:
            return LayerSpec(chosen, "task_arithmetic", (("scale", scaled[0]),), start)
        if scaled == [1.0]:
            return LayerSpec(chosen)
        # the same sum as shares of base and sources: a spec of one source has no scale
        shares = (1.0 - math.fsum(scaled), *scaled)
        return LayerSpec((start, *chosen), "linear", (("weights", shares),))

    def _density(self, others: Sequence[int]) -> float:
        if not self.number("normalize", 1.0):
            raise _Unsaid("ties without normalize")
        found = {self.number("density", 1.0, index) for index in others}
        if len(found) > 1:
            raise _Unsaid(f"{self.place}: density is not the same for all sources")
        return found.pop()


_KEYS = {
    "passthrough": set[str](),
    "linear": {"weight", "normalize"},
    "slerp": {"t"},
    "task_arithmetic": {"weight", "lambda"},
    "ties": {"weight", "lambda", "density", "normalize"},
}


def _member(source: Any, members: Mapping[str, str], place: str) -> str:
    if not isinstance(source, Mapping) or "model" not in source:
        raise _Unsaid(f"{place}: a source names no model")
    return _named(source["model"], members, place)


def _named(model: Any, members: Mapping[str, str], place: str) -> str:
    if not isinstance(model, str) or model not in members:
        known = listed(sorted(set(members.values())))
        raise _Unsaid(f"{place}: {model!r} is the path of no member of the family ({known})")
    return members[model]


def _range(source: Mapping[str, Any], place: str) -> range:
    match source.get("layer_range"):
        case [int(start), int(stop)] if 0 <= start <= stop:
            return range(start, stop)
    raise _Unsaid(f"{place}: layer_range must be two numbers, such as [0, 4]")
