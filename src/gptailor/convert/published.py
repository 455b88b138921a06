"""Convert a search result of the published GPTailor code into a tailoring.

It reads the keys that the published ``prune`` search writes for one candidate. What the keys leave
open is decided as in the published merge, and a note says so.
"""

import re
import reprlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from gptailor.core.merge_spec import merge_spec
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.errors import TailoringError, listed, unknown

__all__ = ["convert_published", "finite_number", "is_published"]

_METHOD = "task_arithmetic"  # the only method of that search
_SCALE, _OUTPUT = "merge_scale_factor", "output_scale"
_NUMBER = r"(0|[1-9][0-9]{0,4})"
_REMOVED = re.compile(rf"remove_idx_{_NUMBER}\Z")
_OF_LAYER = re.compile(rf"layer_{_NUMBER}_(?:candidate_{_NUMBER}|{_SCALE}|{_OUTPUT})\Z")
# keys of the two other searches of that code: layer-wise fusion, depth-wise integration
_OTHER_SEARCHES = re.compile(
    r"layer_selection_method_|.*_paramset_|layer_\d+_(block_\d+|permutation)_selection\Z|scale_\d+\Z"
)
_MAX_LAYERS = 10_000
_MAX_PROBLEMS = 12
_MAX_NUMBER = 1e300


def is_published(plain: object) -> bool:
    """Whether plain data has keys of one candidate of the published code's searches."""
    patterns = (_REMOVED, _OF_LAYER, _OTHER_SEARCHES)
    keys = plain if isinstance(plain, Mapping) else ()
    return any(pattern.match(key) for key in keys for pattern in patterns)


def convert_published(
    config: Mapping[str, object],
    *,
    n_layers: int,
    members: Sequence[str],
    compat: bool = False,
    where: str = "config",
) -> tuple[Tailoring, tuple[str, ...]]:
    """Convert one candidate of the published ``prune`` search.

    A kept layer without a chosen variant is the base's, with one it is that variant's, with more
    it is ``base + scale * sum(variant - base)``. The embedding is made as the first kept layer is,
    norm and head as the last: the keys do not say, and the published merge does so.

    Args:
        config: The parsed JSON object.
        n_layers: Of each member.
        members: ``base``, then the variants' names in the order of the search.
        compat: Take differences from the base's layer at the position in the *result*, as the
            published merge does, and not from the base's layer at the layer's own position.
        where: What to call `config` in messages, usually the file's name.

    Returns:
        The tailoring, and notes: a sentence on each thing that was open or has no effect.

    Raises:
        TailoringError: The problems of the members and the keys, a sentence each.
    """
    if problems := _member_problems(members, n_layers):
        raise TailoringError(problems)
    read = _Read(config, n_layers, tuple(members[1:]))
    if problems := [f"{where}: {problem}" for problem in read.problems()]:
        more = f"{where}: and {len(problems) - _MAX_PROBLEMS} more problems of this kind"
        many = len(problems) > _MAX_PROBLEMS
        raise TailoringError([*problems[:_MAX_PROBLEMS], more] if many else problems)
    layers = tuple(
        layer.spec(layer.index, Source(BASE, position) if compat else None)
        for position, layer in enumerate(read.kept)
    )
    first, last = read.kept[0].spec(), read.kept[-1].spec()
    notes = tuple(f"{where}: {note}" for note in _notes(read, compat))
    return Tailoring(layers, embedding=first, norm=last, head=last), notes


def _member_problems(members: Sequence[str], n_layers: int) -> list[str]:
    problems: list[str] = []
    for name in members:
        try:
            Source(name)
        except TailoringError as error:
            problems += error.problems
    if list(members[:1]) != [BASE]:
        first = f", not {members[0]!r}" if members else ""
        problems.append(
            f"the first must be {BASE!r}{first}; a tailoring calls the base so, "
            "and the others by the names that the config gives them"
        )
    twice = [name for name in dict.fromkeys(members) if members.count(name) > 1]
    problems += [f"{name!r} is named {members.count(name)} times" for name in twice]
    problems = [f"members: {problem}" for problem in problems]
    if not 1 <= n_layers <= _MAX_LAYERS:
        problems.append(f"layers: must be a number from 1 to {_MAX_LAYERS:,}, not {n_layers}")
    return problems


@dataclass(frozen=True, slots=True)
class _Layer:
    """A kept layer: its index in the members, the variants chosen for it, and their scale."""

    index: int
    chosen: tuple[str, ...]
    scale: float | None

    def spec(self, index: int | None = None, base: Source | None = None) -> LayerSpec:
        """What the published merge makes of it; without an index, of an outer part."""
        sources = tuple(Source(member, index) for member in self.chosen or (BASE,))
        if len(sources) == 1:
            return LayerSpec(sources)
        assert self.scale is not None, "its absence is a problem"
        return LayerSpec(sources, _METHOD, (("scale", self.scale),), base)


@dataclass(slots=True)
class _Read:
    """What the keys say; `removed` and `kept` are filled while they are checked."""

    config: Mapping[str, object]
    n_layers: int
    variants: tuple[str, ...]
    removed: dict[int, list[str]] = field(default_factory=dict)  # layer: the keys that remove it
    kept: list[_Layer] = field(default_factory=list)

    def problems(self) -> list[str]:
        """The problems of the first step that has any."""
        steps = (self._check_keys, self._read_removed, self._check_counts, self._read_kept)
        return next((found for step in steps if (found := list(step()))), [])

    def _check_keys(self) -> Iterator[str]:
        """Find keys of another search, or keys that mean nothing."""
        if any(_OTHER_SEARCHES.match(key) for key in self.config):
            yield (
                "is a result of the layer-wise fusion (lfs) or depth-wise integration (dis) "
                "search, whose layers no stock model has, so it can't be converted"
            )
        elif not any(_OF_LAYER.match(key) for key in self.config):
            yield (
                "has no keys such as 'layer_0_candidate_0'; give a search result of the "
                "published code, or the runhistory.json of its optimiser"
            )
        else:
            of_layer = ("candidate_0", _SCALE, _OUTPUT)
            known = ("remove_idx_0", *(f"layer_0_{name}" for name in of_layer))
            for key in self.config:
                if not _REMOVED.match(key) and not _OF_LAYER.match(key):
                    yield unknown("key", key[:60], known)

    def _read_removed(self) -> Iterator[str]:
        found = {int(match[1]): key for key in self.config if (match := _REMOVED.match(key))}
        for _, key in sorted(found.items()):
            layer = finite_number(self.config[key])
            if layer is not None and layer.is_integer() and 0 <= layer < self.n_layers:
                self.removed.setdefault(int(layer), []).append(key)
            else:
                yield (
                    f"{key} is {reprlib.repr(self.config[key])}; "
                    f"it must be a layer's number from 0 to {self.n_layers - 1}"
                )
        gap = min(set(range(max(found, default=0))) - found.keys(), default=None)
        if gap is not None:
            yield f"remove_idx_{gap} is missing, and remove_idx_{max(found)} is there"

    def _check_counts(self) -> Iterator[str]:
        """Compare the numbers of layers and variants with the members'."""
        of_layers = [match for key in self.config if (match := _OF_LAYER.match(key))]
        named = {int(match[1]) for match in of_layers} | self.removed.keys()
        n_variants = max((int(match[2]) + 1 for match in of_layers if match[2]), default=0)
        missing = [layer for layer in range(self.n_layers) if layer not in named]
        if max(named) + 1 != self.n_layers:
            yield f"its keys fit {max(named) + 1} layers, and {self.n_layers} were given"
        elif missing:
            yield (
                f"says nothing of {_layers(missing)}, neither kept nor removed; "
                "the file has lost a remove_idx or the keys of candidates"
            )
        elif len(self.removed) == self.n_layers:
            yield "removes every layer; at least one must be kept"
        elif n_variants != len(self.variants):
            yield (
                f"has {n_variants} candidates a layer, but {len(self.variants)} members besides "
                f"the base were named ({', '.join(self.variants) or 'none'}); "
                f"name base and {n_variants} variants, in the order of the search"
            )

    def _read_kept(self) -> Iterator[str]:
        for layer in range(self.n_layers):
            if layer in self.removed:
                continue
            chosen = []
            for index, name in enumerate(self.variants):
                key = f"layer_{layer}_candidate_{index}"
                value = self.config.get(key)
                if key not in self.config:
                    yield f"{key} is missing; its layer is kept, so it needs a 0 or a 1"
                elif not isinstance(value, bool | int | float) or value not in (0, 1):
                    yield f"{key} must be 0 or 1, not {reprlib.repr(value)}"
                elif value:
                    chosen.append(name)
            scale = f"layer_{layer}_{_SCALE}"
            yield from self._scale_problems(scale, merged=len(chosen) > 1)
            yield from self._scale_problems(f"layer_{layer}_{_OUTPUT}")
            self.kept.append(_Layer(layer, tuple(chosen), finite_number(self.config.get(scale))))

    def _scale_problems(self, key: str, *, merged: bool = False) -> Iterator[str]:
        value = self.config.get(key)
        if value is None:
            if merged:
                yield f"{key} is missing; its layer merges several candidates and needs one"
        elif finite_number(value) is None:
            yield f"{key} must be a finite number, not {reprlib.repr(value)}"
        elif merged and (problem := merge_spec(_METHOD).params["scale"].problem(value)):
            yield f"{key} {problem}"


def _notes(read: _Read, compat: bool) -> Iterator[str]:
    named = ", ".join(f"{index} is {name}" for index, name in enumerate(read.variants))
    yield (
        "names neither the members nor how many layers they have; taken as given: "
        f"{read.n_layers} layers, {f'candidate {named}' if named else 'no candidates'}"
    )
    for layer, keys in sorted(read.removed.items()):
        if len(keys) > 1:
            yield (
                f"layer {layer} is removed by {' and '.join(keys)}, so {len(read.kept)} layers are "
                "left, more than the search was to keep"
            )
    kept = [layer.index for layer in read.kept]
    scaled = [at for at in kept if read.config.get(f"layer_{at}_{_OUTPUT}") not in (None, 1)]
    if scaled:
        yield (
            f"output_scale is not 1 in {_layers(scaled)}; the published code reads it and never "
            "uses it, so it has no effect here either"
        )
    first, last = read.kept[0], read.kept[-1]
    tie = "" if first.spec() == last.spec() else "; members that tie the two can't take this"
    yield (
        "embedding, norm and head are not in the file; as in the published merge, the embedding is "
        f"made as layer {first.index} is ({first.spec()}), norm and head as layer "
        f"{last.index} is ({last.spec()}){tie}"
    )
    moved = ", ".join(
        f"layer {layer.index} from base:{position}"
        for position, layer in enumerate(read.kept)
        if len(layer.chosen) > 1 and position != layer.index
    )
    here = "here each is taken from the layer's own position, and compat reproduces it"
    if moved:
        yield (
            "the published merge takes the base at a layer's position in the result: differences "
            f"of {moved}; {'as here, with compat' if compat else here}"
        )


def finite_number(value: object) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if abs(value) < _MAX_NUMBER else None  # NaN is not below


def _layers(numbers: Sequence[int]) -> str:
    return f"layer{'s' * (len(numbers) > 1)} {listed(numbers, 10)}"
