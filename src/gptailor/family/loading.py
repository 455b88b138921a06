"""Load a base and its variants into one family, with equal tensors stored once.

Each member is opened once. A variant is fitted to the base, cast and shared before the next is
opened, so memory peaks at the family and one member.
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from gptailor.core.specs import MemberSpec
from gptailor.core.tailoring import BASE, Source
from gptailor.errors import FamilyError, TailoringError, listed, unknown
from gptailor.family.adapter import CONFIG, apply_adapter
from gptailor.family.architecture import facts, refuse_unsupported
from gptailor.family.checkpoint_reader import (
    OTHER_HEAD,
    generation_config_of,
    open_checkpoint,
    state_of,
    tokenizer_of,
)
from gptailor.family.consistency import fitted, value_problems
from gptailor.family.dtypes import dtype_of
from gptailor.family.empty_model import skeleton_of
from gptailor.family.family import Family, OpenedMember
from gptailor.family.gguf.reader import open_gguf
from gptailor.family.hub import commit_of
from gptailor.family.layout import Layout
from gptailor.family.locate import find, package_licence
from gptailor.family.memory_map import let_go, map_tensors
from gptailor.family.text_files import rowless_notes, text_notes, with_tokenizer_of
from gptailor.family.weight_files import WHOLE_WEIGHTS

__all__ = ["MEMORY", "family_of", "load_family"]

_PICKLED_WEIGHTS = ("pytorch_model.bin", "pytorch_model.bin.index.json")
MEMORY = "memory://"  # the path of a member that is in no file begins with this


def load_family(
    base: MemberSpec,
    variants: Mapping[str, MemberSpec],
    *,
    dtype: torch.dtype | str = "auto",
    device: torch.device | str = "cpu",
    mapped: bool = False,
    tokenizer_from: str = BASE,
) -> Family:
    """Load a family into memory, or into files that the system maps.

    Args:
        base: A checkpoint's folder or hub id, or a GGUF file.
        variants: By name; a checkpoint, a GGUF file, or a PEFT adapter. There may be none.
        dtype: Of every float tensor, or its name; merging and dequantising happen in float32
            before. ``auto``, as in a config: bfloat16 on a GPU, on a CPU the faster of bfloat16 and
            float32.
        device: Where the tensors are to be.
        mapped: Leave them in files, for a family that is larger than memory; on the CPU only.
        tokenizer_from: The member whose tokenizer, chat template and generation config are used
            and exported; its token ids must be the base's.

    Raises:
        FamilyError: Every problem of every member, a sentence each.
    """
    dtype = dtype_of(dtype, str(device))
    locations = _find_all(base, variants)
    on_base = any(
        _is_adapter(locations[name], spec) and spec.base is None for name, spec in variants.items()
    )
    opened = _open_member(base, locations[BASE], dtype=torch.float32 if on_base else dtype)
    openers = {
        name: partial(_open_member, spec, locations[name], dtype=dtype, family_base=opened)
        for name, spec in variants.items()
    }
    if tokenizer_from != BASE:
        if tokenizer_from not in openers:
            raise FamilyError(unknown("member", tokenizer_from, (BASE, *openers)))
        # its weights are read again when their turn comes
        opened = with_tokenizer_of(openers[tokenizer_from](), tokenizer_from, opened)
    joined = _join_members(opened, openers, dtype=dtype, device=device, mapped=mapped)
    return replace(joined, tokenizer_from=tokenizer_from)


def family_of(
    base: PreTrainedModel, variants: Mapping[str, PreTrainedModel], tokenizer: Any
) -> Family:
    """Make a family of models in memory, without copies where dtype and device are the base's.

    Do not train the models while the family is in use.

    Args:
        base: A causal language model; its dtype and device become the family's.
        variants: Name to a fine-tuned model of the same architecture. There may be none.
        tokenizer: The transformers tokenizer of all members.

    Raises:
        FamilyError: Every problem of every member, a sentence each.
    """
    opened = _in_memory(BASE, base, tokenizer)
    openers = {
        name: partial(_in_memory, name, model, tokenizer) for name, model in variants.items()
    }
    return _join_members(opened, openers, dtype=base.dtype, device=base.device)


def _join_members(
    base: OpenedMember,
    variants: Mapping[str, Callable[[], OpenedMember]],
    *,
    dtype: torch.dtype,
    device: torch.device | str = "cpu",
    mapped: bool = False,
) -> Family:
    """Fit variants, which are opened one after the other, to the base, and share equal tensors."""
    layout = Layout.of(skeleton_of(base.config, dtype))
    states = {BASE: _cast(base.state, dtype, device)}
    if mapped:
        states[BASE] = map_tensors(states[BASE])
    problems = [*_name_problems(variants), *value_problems(BASE, base.location, states[BASE])]
    paths = {BASE: base.path}
    notes = [*_reading_notes(base, dtype), *rowless_notes(base, layout)]
    for name, open_variant in variants.items():
        try:
            member = open_variant()
        except FamilyError as error:
            problems += [_naming(name, sentence) for sentence in error.problems]
            continue
        state, misfits, own_notes = fitted(name, member, base, layout)
        if not misfits:
            states[name] = _cast(state, dtype, device, states[BASE])
            own = {k: v for k, v in states[name].items() if v is not states[BASE][k]}
            misfits = value_problems(name, member.location, own)
            if shared := len(state) - len(own):
                shares = f"shares {shared} of {len(state)} tensors with the base"
                own_notes.append(f"variant {name!r} {shares}")
            if mapped:
                states[name] = map_tensors(states[name], states[BASE])
                let_go(states[name].values())
        problems += misfits
        paths[name] = member.path
        notes += [*_reading_notes(member, dtype), *own_notes]
        notes += text_notes(f"variant {name!r}", member, base)
    if problems:
        raise FamilyError(problems)
    config = copy.deepcopy(base.config)
    config.dtype = dtype
    return Family(
        config=config,
        layout=layout,
        dtype=dtype,
        states=states,
        paths=paths,
        notes=tuple(dict.fromkeys(notes)),
        generation_config=base.generation_config,
        licence=base.licence,
        own_tokenizer=base.tokenizer,
        multimodal_wrapper=base.multimodal_wrapper,
        mapped=mapped,
    )


def _open_member(
    spec: MemberSpec, location: Path, *, dtype: torch.dtype, family_base: OpenedMember | None = None
) -> OpenedMember:
    """Open a member that `find` found; an adapter without a base is merged into `family_base`."""
    if not _is_adapter(location, spec):
        return _open_whole(spec, location, dtype)
    if spec.base is not None:
        base_spec = MemberSpec(path=spec.base)
        family_base = _open_member(base_spec, find(base_spec), dtype=torch.float32)
    if family_base is None:
        raise FamilyError(f"{location} is an adapter; name the model it was trained on as 'base'")
    config, state, adapter_notes = apply_adapter(family_base, location, strength=spec.strength)
    # on the family's base it keeps its rows, unless it was trained with more of them; a tokenizer
    # beside it then says which tokens these are
    tokenizer = family_base.tokenizer
    if config is not family_base.config:
        tokenizer = tokenizer_of(location)
    elif spec.base is not None:
        tokenizer = tokenizer_of(location) or tokenizer
    times = "" if spec.strength == 1.0 else f", times {spec.strength:g}"
    notes = () if spec.base is None else _reading_notes(family_base, dtype)
    return replace(
        family_base,
        location=str(location),
        path=f"{_path(spec)} (adapter on {family_base.path}{times})",
        config=config,
        state=state,
        tokenizer=tokenizer,
        adapter_tokenizer=_tokenizer_beside(location),
        generation_config=generation_config_of(location) or family_base.generation_config,
        notes=(*_commit_notes(spec, location), *notes, *adapter_notes),
        stored=None,
        multimodal_wrapper=None,
    )


def _tokenizer_beside(adapter: Path) -> Any:  # transformers is untyped here
    """The tokenizer beside an adapter, or None where there is none that can be read."""
    try:
        return tokenizer_of(adapter)
    except FamilyError:
        return None


def _open_whole(spec: MemberSpec, location: Path, dtype: torch.dtype) -> OpenedMember:
    if spec.strength != 1.0:
        raise FamilyError(
            f"{spec.path}: strength is {spec.strength:g}, but only an adapter has a strength"
        )
    file = _gguf_of(location)
    if file is None:
        opened = open_checkpoint(location, dtype=dtype, path=_path(spec))
    else:
        opened = open_gguf(file, dtype=dtype, path=_path(spec))
    licence = opened.licence or package_licence(spec.path)
    return replace(opened, licence=licence, notes=(*_commit_notes(spec, location), *opened.notes))


def _in_memory(name: str, model: PreTrainedModel, tokenizer: Any) -> OpenedMember:
    """A model as if it had been read from a file."""
    where = f"the model in memory {name!r}"
    if not isinstance(model, PreTrainedModel):
        raise FamilyError(
            f"{where} is a {type(model).__name__}; give a transformers model, and a PEFT model "
            "after merge_and_unload"
        )
    if OTHER_HEAD.search(type(model).__name__):
        raise FamilyError(f"{where} is a {type(model).__name__}, which predicts no tokens")
    if model.config.model_type in facts().multimodal:
        raise FamilyError(f"{where} reads images and text; save it and give its folder")
    refuse_unsupported(model.config)
    layout = Layout.of(model)
    return OpenedMember(
        location=where,
        path=f"{MEMORY}{name}",
        config=model.config,
        state=state_of(model, layout, model.dtype),
        tied=layout.tied,
        tokenizer=tokenizer,
        generation_config=model.generation_config,
    )


def _gguf_of(location: Path) -> Path | None:
    """The GGUF file at a location: the file, or the only one in a folder without a config.json."""
    if location.is_file():
        return location
    if (location / "config.json").is_file() or not location.is_dir():
        return None
    files = sorted(location.glob("*.gguf"))
    if len(files) > 1:
        names = listed([file.name for file in files])
        raise FamilyError(f"{location} holds several GGUF files ({names}); name one of them")
    return files[0] if files else None


def _is_adapter(location: Path, spec: MemberSpec) -> bool:
    """Whether a folder is read as an adapter.

    Raises:
        FamilyError: It holds a whole model, too, or no adapter where one is wanted.
    """
    there = (location / CONFIG).is_file()
    files = ("config.json", *WHOLE_WEIGHTS, *_PICKLED_WEIGHTS)
    whole = [one for one in files if (location / one).is_file()]
    if spec.read == "adapter" and not there:
        raise FamilyError(f"{location} has no {CONFIG}; give the folder of an adapter")
    if there and len(whole) > 1 and spec.read is None:
        raise FamilyError(
            f"{location} holds an adapter ({CONFIG}) and a whole model ({whole[1]}), perhaps the "
            "two merged; say which is meant: 'read: adapter' or 'read: model' beside its 'path'"
        )
    return there and spec.read != "model"


def _find_all(base: MemberSpec, variants: Mapping[str, MemberSpec]) -> dict[str, Path]:
    """Find every member before any is opened, so that all that are missing are reported at once."""
    locations: dict[str, Path] = {}
    problems = list(_name_problems(variants))
    for name, spec in [(BASE, base), *variants.items()]:
        try:
            locations[name] = find(spec)
            if spec.base is not None:
                find(MemberSpec(path=spec.base))
        except FamilyError as error:
            problems += [_naming(name, sentence) for sentence in error.problems]
    if problems:
        raise FamilyError(problems)
    return locations


def _name_problems(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        try:
            Source(name)
        except TailoringError as error:
            yield from error.problems
        if name == BASE:
            yield f"a variant is named {BASE!r}; that name is the base's own, take another"


def _naming(name: str, sentence: str) -> str:
    return sentence if f"{name!r}" in sentence[:60] else f"member {name!r}: {sentence}"


def _path(spec: MemberSpec) -> str:
    return spec.path if spec.revision is None else f"{spec.path}@{spec.revision}"


def _cast(
    state: Mapping[str, Tensor],
    dtype: torch.dtype,
    device: torch.device | str,
    base: Mapping[str, Tensor] = {},
) -> dict[str, Tensor]:
    """Cast and move tensors; one that then equals the base's becomes the base's own."""
    made = {}
    for name, tensor in state.items():
        cast = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
        made[name] = base[name] if name in base and torch.equal(cast, base[name]) else cast
    return made


def _commit_notes(spec: MemberSpec, location: Path) -> list[str]:
    """The commit of a hub repository that was read: a branch may move."""
    commit = commit_of(location)
    return [f"{_path(spec)} was read from the model hub at commit {commit}"] if commit else []


def _reading_notes(member: OpenedMember, dtype: torch.dtype) -> list[str]:
    """How a member's weights were stored and are held, and its other notes."""
    if member.stored is None:
        return list(member.notes)
    held = "" if dtype == torch.float32 else f" and held as {str(dtype).removeprefix('torch.')}"
    return [f"{member.path} {member.stored}; read as float32{held}", *member.notes]
