"""Open a base and its variants, hold them together, and share what is equal.

Each member is opened once; a variant is fitted, cast and shared before the next is opened, so that
memory peaks at the family and one member. Knows nothing of what the members are for.
"""

import copy
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from gptailor.core.member_spec import MemberSpec
from gptailor.core.tailoring import BASE, Source
from gptailor.errors import FamilyError, TailoringError
from gptailor.family.adapter import CONFIG, apply_adapter
from gptailor.family.checkpoint import open_checkpoint, tokenizer_of
from gptailor.family.consistency import fitted, value_problems
from gptailor.family.empty_model import skeleton_of
from gptailor.family.family import Family
from gptailor.family.gguf.reader import open_gguf
from gptailor.family.hub import commit_of
from gptailor.family.layout import Layout
from gptailor.family.licence import package_licence
from gptailor.family.locate import find, package_of
from gptailor.family.members import OpenedMember
from gptailor.family.memory_map import let_go, map_tensors

__all__ = ["load_family", "open_member"]


def load_family(
    base: MemberSpec,
    variants: Mapping[str, MemberSpec],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    mapped: bool = False,
) -> Family:
    """Load a family into memory, or into files that the system maps.

    Args:
        base: A checkpoint's folder or hub id, or a GGUF file.
        variants: By name; a checkpoint, a GGUF file, or a PEFT adapter. There may be none.
        dtype: Of every float tensor; merging and dequantising happen in float32 before.
        device: Where the tensors are to lie.
        mapped: Leave them in files, for a family that is larger than memory; on the CPU only.

    Raises:
        FamilyError: Every error of every member, a sentence each.
    """
    places = _places_of({BASE: base}, variants)
    on_base = [
        name
        for name, source in variants.items()
        if _is_adapter(places[name]) and source.base is None
    ]
    opened = open_member(base, places[BASE], dtype=torch.float32 if on_base else dtype)
    layout = Layout.of(skeleton_of(opened.config, dtype))
    states = {BASE: _cast(opened.state, dtype, device)}
    if mapped:
        states[BASE] = map_tensors(states[BASE])
    problems = value_problems(BASE, opened.where, states[BASE])
    paths, notes = {BASE: opened.origin}, _reading_notes(opened, dtype)
    for name, source in variants.items():
        try:
            member = open_member(source, places[name], dtype=dtype, family_base=opened)
        except FamilyError as error:
            problems += [_naming(name, sentence) for sentence in error.problems]
            continue
        state, misfits, own_notes = fitted(name, member, opened, layout)
        if not misfits:
            states[name] = _shared(_cast(state, dtype, device), states[BASE])
            own = {k: v for k, v in states[name].items() if v is not states[BASE][k]}
            misfits = value_problems(name, member.where, own)
            if mapped:
                states[name] = map_tensors(states[name], states[BASE])
                let_go(states[name].values())
        problems += misfits
        paths[name] = member.origin
        notes += [*_reading_notes(member, dtype), *own_notes]
    if problems:
        raise FamilyError(problems)
    config = copy.deepcopy(opened.config)
    config.dtype = dtype
    return Family(
        config=config,
        layout=layout,
        dtype=dtype,
        states=states,
        paths=paths,
        notes=tuple(dict.fromkeys((*notes, *_sharing_notes(states)))),
        generation_config=opened.generation_config,
        licence=opened.licence,
        base_tokenizer=opened.tokenizer,
        multimodal_wrapper=opened.multimodal_wrapper,
        mapped=mapped,
    )


def open_member(
    source: MemberSpec,
    place: Path,
    *,
    dtype: torch.dtype,
    family_base: OpenedMember | None = None,
) -> OpenedMember:
    """Open one member of whatever kind lies at `place`.

    Args:
        source: The member, as the config names it.
        place: Where `find` found it.
        dtype: Of the float tensors; an adapter's are float32 whatever is asked for.
        family_base: What an adapter without a base of its own stands on, in float32.

    Raises:
        FamilyError: It can't be read, or does not fit.
    """
    if not _is_adapter(place):
        return _open_whole(source, place, dtype)
    if source.base is not None:
        under = MemberSpec(path=source.base)
        family_base = open_member(under, find(under), dtype=torch.float32)
    if family_base is None:
        raise FamilyError(f"{place} is an adapter; say which model it stands on with 'base'")
    config, state = apply_adapter(family_base, place, strength=source.strength)
    own_base = source.base is not None
    # on the family's base it keeps its rows, unless it was trained with more of them; a tokenizer
    # beside it then says which tokens these are
    resized = config is not family_base.config
    tokenizer = tokenizer_of(place) if own_base or resized else None
    times = "" if source.strength == 1.0 else f", times {source.strength:g}"
    return OpenedMember(
        where=str(place),
        origin=f"{_origin(source)} (adapter on {family_base.origin}{times})",
        config=config,
        state=state,
        tied=family_base.tied,
        tokenizer=tokenizer if resized else tokenizer or family_base.tokenizer,
        generation_config=family_base.generation_config,
        licence=family_base.licence,
        notes=(
            *_commit_notes(source, place),
            *(_reading_notes(family_base, dtype) if own_base else ()),
        ),
    )


def _origin(source: MemberSpec) -> str:
    return source.path if source.revision is None else f"{source.path}@{source.revision}"


def _commit_notes(source: MemberSpec, place: Path) -> list[str]:
    """Which commit of a hub's repository was read: a branch may move."""
    commit = commit_of(place)
    told = f"{_origin(source)} was read from the model hub at commit {commit}"
    return [] if commit is None else [told]


def _reading_notes(member: OpenedMember, dtype: torch.dtype) -> list[str]:
    """A member's notes; before them what its weights were stored as and what is made of them."""
    if member.stored is None:
        return list(member.notes)
    held = "" if dtype == torch.float32 else f" and held as {_word(dtype)}"
    return [f"{member.origin} {member.stored}; read as float32{held}", *member.notes]


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _open_whole(source: MemberSpec, place: Path, dtype: torch.dtype) -> OpenedMember:
    if source.strength != 1.0:
        raise FamilyError(
            f"{source.path}: strength is {source.strength:g}, but only an adapter has a strength"
        )
    origin = _origin(source)
    file = _gguf_of(place)
    if file is None:
        opened = open_checkpoint(place, dtype=dtype, origin=origin)
    else:
        opened = open_gguf(file, dtype=dtype, origin=origin)
    opened = replace(opened, notes=(*_commit_notes(source, place), *opened.notes))
    package = package_of(source.path)
    if opened.licence is None and package is not None:
        return replace(opened, licence=package_licence(package))
    return opened


def _gguf_of(place: Path) -> Path | None:
    """The GGUF file at a place: the file, or the only one in a folder without a config.json."""
    if place.is_file():
        return place
    if (place / "config.json").is_file() or not place.is_dir():
        return None
    files = sorted(place.glob("*.gguf"))
    if len(files) > 1:
        names = ", ".join(file.name for file in files)
        raise FamilyError(f"{place} holds several GGUF files ({names}); name one of them")
    return files[0] if files else None


def _is_adapter(place: Path) -> bool:
    return (place / CONFIG).is_file()


def _places_of(
    base: Mapping[str, MemberSpec], variants: Mapping[str, MemberSpec]
) -> dict[str, Path]:
    """Find every member before any is opened: what is missing is told at once."""
    places: dict[str, Path] = {}
    problems = _name_problems(variants)
    for name, source in [*base.items(), *variants.items()]:
        try:
            places[name] = find(source)
            if source.base is not None:
                find(MemberSpec(path=source.base))
        except FamilyError as error:
            problems += [_naming(name, sentence) for sentence in error.problems]
    if problems:
        raise FamilyError(problems)
    return places


def _name_problems(variants: Mapping[str, MemberSpec]) -> list[str]:
    problems: list[str] = []
    for name in variants:
        try:
            Source(name)
        except TailoringError as error:
            problems += error.problems
        if name == BASE:
            problems.append(
                f"a variant is named {BASE!r}; that name is the base's own, take another"
            )
    return problems


def _naming(name: str, sentence: str) -> str:
    return sentence if f"{name!r}" in sentence[:60] else f"member {name!r}: {sentence}"


def _cast(
    state: Mapping[str, Tensor], dtype: torch.dtype, device: torch.device | str
) -> dict[str, Tensor]:
    return {
        name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        for name, tensor in state.items()
    }


def _shared(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put the base's own tensor wherever the variant's equals it."""
    return {
        name: base[name] if torch.equal(tensor, base[name]) else tensor
        for name, tensor in state.items()
    }


def _sharing_notes(states: Mapping[str, Mapping[str, Tensor]]) -> list[str]:
    notes = []
    for name, state in states.items():
        shared = sum(tensor is states[BASE][key] for key, tensor in state.items())
        if name != BASE and shared:
            notes.append(f"variant {name!r} shares {shared} of {len(state)} tensors with the base")
    return notes
