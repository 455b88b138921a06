"""Which families and member files mergekit can read and write.

mergekit reads the members' files itself; so these must be plain checkpoints that hold what the
family holds, of an architecture that mergekit writes whole.
"""

import functools
import itertools
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BeforeValidator
from safetensors import safe_open
from torch import Tensor

from gptailor.core.tailoring import BASE
from gptailor.core.validation import Frozen
from gptailor.errors import ExportError
from gptailor.export.card import path_only
from gptailor.family import Family, MemberSpec
from gptailor.family.locate import find
from gptailor.family.weight_files import read_json, tensors_of
from gptailor.files.yaml import read_yaml

__all__ = [
    "MERGEKIT",
    "USE_HF",
    "WRITE_OUT",
    "MemberFiles",
    "family_problem",
    "files_of",
    "known_architectures",
]

MERGEKIT = "0.1.5"  # the version whose results are known
USE_HF = "use --format hf instead"
WRITE_OUT = (
    "write the member out with --format hf and a tailoring of all its layers, and name that folder "
    f"in the family; or {USE_HF}"
)
_MISREAD = (" ", '"', "+", "@")  # mergekit fails on the first two, and splits at the others

_STORED_AS = {torch.float16: "F16", torch.bfloat16: "BF16"}  # fewer bits than float32


def _expanded(patterns: Sequence[str]) -> frozenset[str]:
    """The names that patterns such as ``mlp.{up,down}.weight`` stand for."""
    split = [[part.split(",") for part in re.split("[{}]", pattern)] for pattern in patterns]
    return frozenset("".join(parts) for each in split for parts in itertools.product(*each))


_Names = Annotated[frozenset[str], BeforeValidator(_expanded)]


class _KnownArchitecture(Frozen):
    """An entry of architectures.yaml, which says what each field means."""

    architecture: str
    layer: _Names
    optional: _Names = frozenset()
    tied: bool = True
    untied: bool = True


@functools.cache
def known_architectures() -> Mapping[str, _KnownArchitecture]:
    """The architectures that mergekit can write with fewer layers, by model type."""
    plain = read_yaml(Path(__file__).with_name("architectures.yaml"))
    return {model_type: _KnownArchitecture(**facts) for model_type, facts in plain.items()}


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """The files of a member, as mergekit finds them."""

    reference: str  # an absolute folder, or a hub id with its revision
    names: frozenset[str]  # the tensors in its files
    rounded: bool  # whether tensors must be rounded to the family's dtype before they are merged


def family_problem(family: Family) -> str | None:
    """Why mergekit can't write models of this architecture as they are; None if it can."""
    model_type, known = family.config.model_type, known_architectures()
    if model_type not in known:
        return (
            f"mergekit {MERGEKIT} can't write models of type {model_type!r} with other layers than "
            f"before (of these it can: {', '.join(known)})"
        )
    if len(set(family.kinds)) > 1:
        return (
            f"the layers of this {model_type} model are of different kinds, and mergekit leaves "
            "the config's word on them as it was"
        )
    facts = known[model_type]
    if not (facts.tied if family.tied else facts.untied):
        kind = "tied to the embedding" if family.tied else "of its own"
        return f"mergekit {MERGEKIT} can't write {model_type} models with a head {kind}"
    stem = f"{family.layout.layers}.0."
    names = {n.removeprefix(stem) for n in family.states[BASE] if n.startswith(stem)}
    for wrong in sorted((names ^ facts.layer) - (facts.optional & names)):
        does, have = ("leaves out", "have") if wrong in names else ("asks for", "lack")
        return (
            f"mergekit {MERGEKIT} {does} {wrong} in layers of {model_type} models, which these "
            f"{have}"
        )
    return None


def files_of(family: Family, member: str) -> MemberFiles:
    """Find a member's files, and check that they hold what the family holds.

    Raises:
        ExportError: It is an adapter or a GGUF file, or its files are not what the family holds.
    """
    origin = family.paths[member]
    if path_only(origin) != origin:
        raise ExportError(
            f"member {member!r} is an adapter ({origin}), which mergekit merges in another "
            f"precision; {WRITE_OUT}"
        )
    source, local = _source_of(origin)
    folder = find(source)
    if not (folder / "config.json").is_file():
        raise ExportError(
            f"member {member!r} is a GGUF file ({origin}), which mergekit can't read; {WRITE_OUT}"
        )
    reference = os.path.abspath(folder) if local else origin  # a link may lead there
    if local and any(char in reference for char in _MISREAD):
        raise ExportError(
            f"member {member!r} lies in {reference!r}, and mergekit can't read a path with "
            f"{' or '.join(map(repr, _MISREAD))} in it; move or copy the folder to another path "
            f"and name that in the family; or {USE_HF}"
        )
    named = read_json(folder / "config.json").get("architectures")
    wanted = known_architectures()[family.config.model_type].architecture
    if named != [wanted]:
        raise ExportError(
            f"member {member!r}: architectures is {named} in its config.json, which mergekit goes "
            f"by; it must be [{wanted}], or {USE_HF}"
        )
    stored = tensors_of(folder)
    for name in (family.layout.embedding, family.layout.head):
        if name in family.states[member]:
            file = folder / stored[name].file if name in stored else None
            _refuse_fitted(member, name, file, family.states[member][name])
    dtype = _STORED_AS.get(family.dtype)
    rounded = dtype is not None and any(each.dtype != dtype for each in stored.values())
    return MemberFiles(reference, frozenset(stored), rounded)


def _source_of(origin: str) -> tuple[MemberSpec, bool]:
    """The member as the config named it, and whether it is on this machine."""
    path = Path(origin).expanduser()
    if path.exists() or origin.startswith("package://"):
        return MemberSpec(path=origin), True
    name, at, revision = origin.partition("@")
    return MemberSpec(path=name, revision=revision if at else None), False


def _refuse_fitted(member: str, name: str, path: Path | None, held: Tensor) -> None:
    """Refuse files whose rows were cut or reordered to fit the base's vocabulary."""
    tensor = None
    if path is not None:
        with safe_open(path, framework="pt") as file:
            tensor = file.get_tensor(name)
    if tensor is None or not torch.equal(tensor.to(held.dtype), held.cpu()):
        raise ExportError(
            f"member {member!r}: {name} in its files is not what was read from them, for its "
            f"vocabulary was fitted to the base's, or the files have changed; {WRITE_OUT}"
        )
