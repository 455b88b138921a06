"""Search results of the published GPTailor code, turned into tailorings.

Knows the keys that its ``prune`` search writes for one candidate and what its merge makes of them;
where the keys leave something open, a note says what was taken. Knows nothing of files and weights.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from gptailor.core.merge_spec import merge_spec
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.errors import TailoringError, unknown

__all__ = ["convert_published", "is_published"]

_METHOD = "task_arithmetic"  # the only one that its search decodes to
_SCALE, _OUTPUT = "merge_scale_factor", "output_scale"
_NUMBER = r"(0|[1-9][0-9]{0,4})"
_REMOVED = re.compile(rf"remove_idx_{_NUMBER}\Z")
_OF_LAYER = re.compile(rf"layer_{_NUMBER}_(?:candidate_{_NUMBER}|({_SCALE}|{_OUTPUT}))\Z")
_FUSION = re.compile(r"layer_selection_method_|.*_paramset_")
_STACKING = re.compile(r"layer_\d+_(block_\d+|permutation)_selection\Z|scale_\d+\Z")
_MAX_LAYERS = 10_000
_MAX_PROBLEMS = 12


def is_published(plain: object) -> bool:
    """Whether plain data has the keys of one candidate of the published code's searches."""
    return isinstance(plain, Mapping) and any(
        pattern.match(key)
        for key in plain
        if isinstance(key, str)
        for pattern in (_REMOVED, _OF_LAYER, _FUSION, _STACKING)
    )


def convert_published(
    config: Mapping[str, object],
    *,
    n_layers: int,
    members: Sequence[str],
    compat: bool = False,
    where: str = "config",
) -> tuple[Tailoring, tuple[str, ...]]:
    """Turn one candidate of the published ``prune`` search into a tailoring.

    A kept layer without a chosen candidate is the base's, with one it is that candidate's, with
    more it is ``base + scale * sum(candidate - base)``. The embedding is made as the first kept
    layer is, norm and head as the last: the keys do not say, and the published merge does so.

    Args:
        config: The parsed JSON object.
        n_layers: How many layers each member has.
        members: ``base``, then the candidates' names in the order of the search.
        compat: Take differences from the base's layer at the place in the *result*, as the
            published merge does, and not from the base's layer at the layer's own place.
        where: What to call `config` in messages, usually the file's name.

    Returns:
        The tailoring, and notes: a sentence on each thing that was open or has no effect.

    Raises:
        TailoringError: Every error of the members and the keys, a sentence each.
    """
    _refuse_members(members, n_layers)
    problems = _strangers(config, where)
    if problems:
        raise TailoringError(problems)
    read = _Read(config, n_layers, tuple(members[1:]), where)
    if read.problems:
        n_more = len(read.problems) - _MAX_PROBLEMS
        more = [f"{where}: and {n_more} more problems of this kind"] if n_more > 0 else []
        raise TailoringError(read.problems[:_MAX_PROBLEMS] + more)
    layers = tuple(
        _spec(layer, layer.number, Source(BASE, place) if compat else None)
        for place, layer in enumerate(read.kept)
    )
    first, last = _spec(read.kept[0]), _spec(read.kept[-1])
    return Tailoring(layers, embedding=first, norm=last, head=last), tuple(_notes(read, compat))


@dataclass(frozen=True, slots=True)
class _Kept:
    """A kept layer: its number, the candidates chosen for it, and its two scales."""

    number: int
    chosen: tuple[str, ...]
    scale: float | None
    output_scale: float | None

    @property
    def merged(self) -> bool:
        return len(self.chosen) > 1


@dataclass(slots=True)
class _Read:
    """What the keys say, and every error of them."""

    config: Mapping[str, object]
    n_layers: int
    candidates: tuple[str, ...]
    where: str
    problems: list[str] = field(init=False, default_factory=list)
    removals: dict[int, list[int]] = field(init=False, default_factory=dict)  # layer: indices
    n_ignored: int = field(init=False, default=0)
    kept: list[_Kept] = field(init=False, default_factory=list)

    def __post_init__(self) -> None:
        self._read_removals()
        of_layers = [found for key in self.config if (found := _OF_LAYER.match(key))]
        self._refuse_out_of_range({int(found[1]) for found in of_layers})
        told = {int(found[1]) for found in of_layers}
        self.n_ignored = sum(int(found[1]) in self.removals for found in of_layers)
        if self.problems:
            return
        kept = [layer for layer in range(self.n_layers) if layer not in self.removals]
        missing = [layer for layer in kept if layer not in told]
        if not kept:
            self._problem("removes every layer; at least one must be kept")
        elif missing:
            n_told = max(told | set(self.removals), default=-1) + 1
            why = f"its keys fit {n_told} layers, and {self.n_layers} were given"
            if n_told == self.n_layers:
                why = "the file has lost a remove_idx or the keys of candidates"
            self._problem(f"says nothing of {_layers(missing)}, neither kept nor removed; {why}")
        elif self._candidates_fit(found for found in of_layers if int(found[1]) in kept):
            self.kept = [self._layer(layer) for layer in kept]

    def _problem(self, sentence: str) -> None:
        self.problems.append(f"{self.where}: {sentence}")

    def _read_removals(self) -> None:
        found = {int(match[1]): key for key in self.config if (match := _REMOVED.match(key))}
        for index, key in sorted(found.items()):
            layer = _whole(self.config[key])
            if layer is None or not 0 <= layer < self.n_layers:
                self._problem(
                    f"{key} is {_shown(self.config[key])}; "
                    f"it must be a layer's number from 0 to {self.n_layers - 1}"
                )
            else:
                self.removals.setdefault(layer, []).append(index)
        gaps = [index for index in range(max(found, default=-1)) if index not in found]
        if gaps:
            self._problem(f"remove_idx_{gaps[0]} is missing, and remove_idx_{max(found)} is there")

    def _refuse_out_of_range(self, layers: Iterable[int]) -> None:
        beyond = sorted(layer for layer in layers if layer >= self.n_layers)
        if beyond:
            self._problem(
                f"has keys of {_layers(beyond)}, but the members were said to have "
                f"{self.n_layers} layers, 0 to {self.n_layers - 1}"
            )

    def _candidates_fit(self, found: Iterable[re.Match[str]]) -> bool:
        n_told = max((int(match[2]) + 1 for match in found if match[2]), default=0)
        if n_told != len(self.candidates):
            self._problem(
                f"has {n_told} candidates a layer, but {len(self.candidates)} members besides "
                f"the base were named ({', '.join(self.candidates) or 'none'}); "
                f"name base and {n_told} variants, in the order of the search"
            )
        return n_told == len(self.candidates)

    def _layer(self, layer: int) -> _Kept:
        chosen = tuple(
            name
            for index, name in enumerate(self.candidates)
            if self._switch(f"layer_{layer}_candidate_{index}")
        )
        scale = self._scale(f"layer_{layer}_{_SCALE}", needed=len(chosen) > 1)
        return _Kept(layer, chosen, scale, self._number(f"layer_{layer}_{_OUTPUT}"))

    def _switch(self, key: str) -> bool:
        value = self.config.get(key)
        if key not in self.config:
            self._problem(
                f"{key} is missing; its layer is kept, so each candidate needs a 0 or a 1"
            )
        elif not isinstance(value, bool | int | float) or value not in (0, 1):
            self._problem(f"{key} must be 0 or 1, not {_shown(value)}")
        return value in (True, 1)

    def _scale(self, key: str, *, needed: bool) -> float | None:
        scale = self._number(key)
        if not needed:
            return scale
        if self.config.get(key) is None:
            self._problem(f"{key} is missing; its layer merges several candidates and needs one")
        elif scale is not None:
            error = merge_spec(_METHOD).params["scale"].problem(scale)
            if error is not None:
                self._problem(f"{key} {error}")
        return scale

    def _number(self, key: str) -> float | None:
        value = self.config.get(key)
        if value is None:
            return None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < math.inf:  # type: ignore[arg-type]  # NaN is not below
            self._problem(f"{key} must be a finite number, not {_shown(value)}")
            return None
        return value if isinstance(value, float) else float(_bounded(value))


def _refuse_members(members: Sequence[str], n_layers: int) -> None:
    problems = []
    for name in members:
        try:
            Source(name)
        except TailoringError as error:
            problems += [f"members: {sentence}" for sentence in error.problems]
    if not members or members[0] != BASE:
        first = f", not {members[0]!r}" if members else ""
        problems.append(
            f"members: the first must be {BASE!r}{first}; a tailoring calls the base so, "
            "and the others by the names that the config gives them"
        )
    twice = [name for name in dict.fromkeys(members) if members.count(name) > 1]
    problems += [f"members: {name!r} is named {members.count(name)} times" for name in twice]
    if not 1 <= n_layers <= _MAX_LAYERS:
        problems.append(f"layers: must be a number from 1 to {_MAX_LAYERS:,}, not {n_layers}")
    if problems:
        raise TailoringError(problems)


def _strangers(config: Mapping[str, object], where: str) -> list[str]:
    """Problems of the kind of search, or of keys that mean nothing to it."""
    if any(_FUSION.match(key) for key in config):
        return [
            f"{where}: is a result of the layer-wise fusion search (lfs), which merges attention, "
            "MLP and the rest of one layer with parameters of their own; "
            "a tailoring's layer has one set of parameters, so it can't be converted"
        ]
    if any(_STACKING.match(key) for key in config):
        return [
            f"{where}: is a result of the depth-wise integration search (dis), which stacks layers "
            "and scales their outputs inside a model class of its own; "
            "a stock model can't, so it can't be converted"
        ]
    if not any(_OF_LAYER.match(key) for key in config):
        return [
            f"{where}: has no keys such as 'layer_0_candidate_0'; give a search result of the "
            "published code, or the runhistory.json of its optimiser"
        ]
    known = ["remove_idx_0", "layer_0_candidate_0", f"layer_0_{_SCALE}", f"layer_0_{_OUTPUT}"]
    strange = [k for k in config if not (_REMOVED.match(k) or _OF_LAYER.match(k))]
    more = [f"{where}: and {len(strange) - 3} more unknown keys"] if len(strange) > 3 else []
    return [f"{where}: {unknown('key', _short(key), known)}" for key in strange[:3]] + more


def _spec(layer: _Kept, number: int | None = None, base: Source | None = None) -> LayerSpec:
    """What the published merge makes of a layer, or of a part outside where no number is given."""
    if not layer.merged:
        return LayerSpec((Source(layer.chosen[0] if layer.chosen else BASE, number),))
    sources = tuple(Source(member, number) for member in layer.chosen)
    assert layer.scale is not None
    return LayerSpec(sources, _METHOD, (("scale", layer.scale),), base)


def _notes(read: _Read, compat: bool) -> Iterable[str]:
    named = ", ".join(f"{index} is {name}" for index, name in enumerate(read.candidates))
    yield (
        f"{read.where}: names neither the members nor how many layers they have; "
        f"taken as given: {read.n_layers} layers, candidate {named}"
        if named
        else f"{read.where}: {read.n_layers} layers are taken as given, and no candidates"
    )
    yield from _removal_notes(read)
    yield from _scale_notes(read)
    first, last = _spec(read.kept[0]), _spec(read.kept[-1])
    tie = "" if first == last else "; members that tie the two can't take this"
    yield (
        "embedding, norm and head are not in the file; as in the published merge, the embedding is "
        f"made as layer {read.kept[0].number} is ({first}), norm and head as layer "
        f"{read.kept[-1].number} is ({last}){tie}"
    )
    yield from _base_notes(read, compat)


def _removal_notes(read: _Read) -> Iterable[str]:
    n_indices = sum(map(len, read.removals.values()))
    for layer, indices in sorted(read.removals.items()):
        if len(indices) > 1:
            keys = " and ".join(f"remove_idx_{index}" for index in indices)
            yield (
                f"layer {layer} is removed by {keys}, so {n_indices} removals leave "
                f"{len(read.kept)} layers; the published search gives such candidates its worst "
                "score without running them"
            )
    if not read.removals:
        yield "no layer is removed"
    if read.n_ignored:
        yield f"{_count(read.n_ignored, 'key')} of removed layers are there and have no effect"


def _scale_notes(read: _Read) -> Iterable[str]:
    scaled = [layer for layer in read.kept if layer.output_scale not in (None, 1)]
    if scaled:
        told = _layers([layer.number for layer in scaled])
        yield (
            f"output_scale is not 1 in {told}; the published code reads it and never uses it, "
            "so it has no effect here either"
        )
    idle = [layer for layer in read.kept if not layer.merged and layer.scale is not None]
    if idle:
        yield (
            f"{_SCALE} has no effect in {_layers([layer.number for layer in idle])}: "
            "fewer than two candidates are chosen there, and nothing is merged"
        )
    zero = [layer.number for layer in read.kept if layer.merged and layer.scale == 0]
    if zero:
        yield f"{_SCALE} is 0 in {_layers(zero)}, which gives the base's layer back"


def _base_notes(read: _Read, compat: bool) -> Iterable[str]:
    moved = [(p, layer) for p, layer in enumerate(read.kept) if layer.merged and p != layer.number]
    if not moved:
        if compat:
            yield "compat changes nothing: no merged layer stands after a removed one"
        return
    places = ", ".join(f"layer {layer.number} from base:{place}" for place, layer in moved)
    cancels = [layer for _, layer in moved if len(layer.chosen) * (layer.scale or 0) == 1]
    rest = ""
    if cancels:
        told = _layers([layer.number for layer in cancels])
        rest = f" (it cancels in {told}, where scale times candidates is 1)"
    taken = "as here, with compat" if compat else "here each is taken from the layer's own place"
    yield (
        "the published merge takes the base at a layer's place in the result: differences of "
        f"{places}{rest}; {taken}" + ("" if compat else ", and compat reproduces it")
    )


def _whole(value: object) -> int | None:
    """A whole number, also where it was written as 26.0; else None."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if isinstance(value, float) and not value.is_integer():  # NaN and infinity are not
        return None
    return int(value)


def _bounded(value: object) -> int:
    """An integer that fits a float; what is beyond is beyond every limit."""
    assert isinstance(value, int)
    return max(-(2**63), min(2**63, value))


def _layers(numbers: Sequence[int]) -> str:
    """``layer 3``, or ``layers 3, 5 to 8``."""
    spans: list[list[int]] = []
    for number in sorted(numbers):
        if spans and number == spans[-1][1] + 1:
            spans[-1][1] = number
        else:
            spans.append([number, number])
    told = [f"{low}" if low == high else f"{low} to {high}" for low, high in spans[:10]]
    told += [f"{len(spans) - 10} more"] if len(spans) > 10 else []
    return f"layer{'s' if len(numbers) > 1 else ''} {', '.join(told)}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def _shown(value: object) -> str:
    return _short(f"{value}"[:200] if isinstance(value, int | float) else repr(value))


def _short(text: str) -> str:
    plain = "".join(char if char.isprintable() else "?" for char in text)
    return plain if len(plain) <= 60 else f"{plain[:60]}..."
