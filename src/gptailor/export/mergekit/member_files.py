"""Which families and member files mergekit can read and write.

A recipe names each member by a folder or a hub id, and mergekit reads its files itself; so these
must be plain checkpoints that hold what the family holds, of an architecture that mergekit writes
whole.
"""

import os
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from gptailor.core.tailoring import BASE
from gptailor.errors import ExportError
from gptailor.export.card import path_only
from gptailor.export.mergekit.known_architectures import KNOWN
from gptailor.family import Family, MemberSpec
from gptailor.family.locate import find
from gptailor.family.weight_files import read_json, tensors_of

__all__ = ["MERGEKIT", "USE_HF", "WRITE_OUT", "MemberFiles", "files_of", "refuse_family"]

MERGEKIT = "0.1.5"  # the version whose results are known
USE_HF = "use --format hf instead"
WRITE_OUT = (
    "write the member out with --format hf and a tailoring of all its layers, and name that folder "
    f"in the family; or {USE_HF}"
)
_MISREAD = (" ", '"', "+", "@")  # mergekit fails on the first two, and splits at the others

_STORED_AS = {torch.float16: "F16", torch.bfloat16: "BF16"}  # fewer bits than float32


@dataclass(frozen=True, slots=True)
class MemberFiles:
    """The files of a member, as mergekit finds them.

    Args:
        reference: An absolute folder, or a hub id with its revision.
        names: The tensors in its files.
        rounded: Whether the family's dtype has fewer bits than the files', so that tensors must be
            rounded before they are merged.
    """

    reference: str
    names: frozenset[str]
    rounded: bool


def refuse_family(family: Family) -> None:
    """Refuse an architecture that mergekit writes broken, or not at all.

    Raises:
        ExportError: The reason, in one sentence.
    """
    model_type = family.config.model_type
    known = KNOWN.get(model_type)
    if known is None:
        raise ExportError(
            f"mergekit {MERGEKIT} can't write models of type {model_type!r} with other layers than "
            f"before (of these it can: {', '.join(KNOWN)}); {USE_HF}"
        )
    if len(set(family.kinds)) > 1:
        raise ExportError(
            f"the layers of this {model_type} model are of different kinds, and mergekit leaves "
            f"the config's word on them as it was; {USE_HF}"
        )
    if not (known.tied if family.tied else known.untied):
        kind = "tied to the embedding" if family.tied else "of its own"
        raise ExportError(
            f"mergekit {MERGEKIT} can't write {model_type} models with a head {kind}; {USE_HF}"
        )
    stem = f"{family.layout.layers}.0."
    names = {n.removeprefix(stem) for n in family.states[BASE] if n.startswith(stem)}
    wrong = sorted((names ^ known.layer) - (known.optional & names))
    if wrong:
        does = "leaves out" if wrong[0] in names else "asks for"
        raise ExportError(
            f"mergekit {MERGEKIT} {does} {wrong[0]} in layers of {model_type} models, which "
            f"these {'have' if wrong[0] in names else 'lack'}; {USE_HF}"
        )


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
    if named != [KNOWN[family.config.model_type].architecture]:
        raise ExportError(
            f"member {member!r}: architectures is {named} in its config.json, which mergekit goes "
            f"by; it must be [{KNOWN[family.config.model_type].architecture}], or {USE_HF}"
        )
    stored = tensors_of(folder)
    for name in (family.layout.embedding, family.layout.head):
        if name in family.states[member]:
            file = folder / stored[name].file if name in stored else None
            _refuse_fitted(member, name, file, family.states[member][name])
    wanted = _STORED_AS.get(family.dtype)
    rounded = wanted is not None and any(each.dtype != wanted for each in stored.values())
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
