"""Write a tailoring as a recipe for mergekit, which rebuilds the checkpoint tensor for tensor.

The recipe is a text of several YAML documents, run by ``mergekit-multi``; it names the members' own
files. What mergekit can't rebuild exactly is refused with the reason. Imports nothing of mergekit.
"""

import hashlib
from collections.abc import Collection, Mapping
from importlib.metadata import version
from pathlib import Path
from shlex import quote

from torch import Tensor

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.errors import ExportError
from gptailor.export.card import paths_only
from gptailor.export.folder import replacing_file
from gptailor.export.mergekit.documents import Documents, Slice
from gptailor.export.mergekit.forms import form_of
from gptailor.export.mergekit.member_files import (
    MERGEKIT,
    USE_HF,
    WRITE_OUT,
    MemberFiles,
    family_problem,
    files_of,
)
from gptailor.family import Family
from gptailor.family.layout import OUTER_PARTS
from gptailor.files.yaml import dump_yaml

__all__ = ["export_recipe", "mergekit_recipe"]

_FIRST_LINE = "# A recipe for mergekit-multi, made by gptailor"
_HEAD = (
    _FIRST_LINE
    + """ {version}.
# mergekit rebuilds the checkpoint from it tensor for tensor:
#
#   pip install mergekit=={mergekit}
#   mergekit-multi {file} -I intermediate --out-path rebuilt \\
#     --clone-tensors --no-write-model-card
#
# The folder `intermediate` is new or empty at first, and may go afterwards. On a GPU
# (--cuda) the last bits of sums may differ.
"""
)


def export_recipe(
    family: Family,
    tailoring: Tailoring,
    file: Path,
    *,
    overwrite: bool = False,
    keep: Collection[Path] = (),
) -> None:
    """Write a recipe for mergekit into a file, which appears whole or not at all.

    Args:
        family: The members.
        tailoring: The model to rebuild.
        file: The file to write; an earlier recipe of ours is replaced.
        overwrite: Whether any other file of this name may be replaced.
        keep: Files and folders that must not be overwritten; the members are added.

    Raises:
        TailoringError: The tailoring does not fit the family.
        ExportError: The file can't be written, or mergekit can't rebuild the tailoring.
    """
    text = mergekit_recipe(family, tailoring, file_name=file.name)
    needed = [*keep, *paths_only(family.paths)]
    with replacing_file(file, is_ours=_is_ours, overwrite=overwrite, keep=needed) as beside:
        beside.write_text(text, encoding="utf-8")


def mergekit_recipe(family: Family, tailoring: Tailoring, *, file_name: str = "recipe.yaml") -> str:
    """Express a tailoring in mergekit's words.

    Args:
        family: The members; the recipe names their files.
        tailoring: The model to rebuild, in the family's dtype.
        file_name: The recipe's file name in the command at its top.

    Returns:
        Several YAML documents, with comments on top that say how to run them.

    Raises:
        TailoringError: The tailoring does not fit the family.
        ExportError: mergekit can't rebuild the tailoring; every reason, a sentence each.
    """
    family.check(tailoring)
    if (problem := family_problem(family)) is not None:
        raise ExportError(f"{problem}; {USE_HF}")
    documents = Documents(
        _files(family, tailoring),
        _prefix(family, tailoring),
        str(family.dtype).removeprefix("torch."),
        family.layout.head,
    )
    norm_is_head = tailoring.outer_parts["norm"] == tailoring.head
    layers = {f"layers[{index}]": spec for index, spec in enumerate(tailoring.layers)}
    specs = tailoring.outer_parts | layers
    if norm_is_head or family.tied:  # a tied head is the embedding
        del specs["head"]
    slices: dict[str, Slice] = {}
    problems: list[str] = []
    for key, spec in specs.items():
        try:
            slices[key] = _slice(documents, family, key, spec, norm_is_head=norm_is_head)
        except ExportError as error:
            problems += [f"{key}: {problem}" for problem in error.problems]
    if problems:
        raise ExportError(problems)
    embedding, norm = slices.pop("embedding"), slices.pop("norm")
    head = slices.pop("head", None)
    last = norm if head is None else documents.joined(norm, head)
    written = documents.written(embedding, list(slices.values()), last)
    return _head(tailoring, file_name) + "---\n".join(map(dump_yaml, written))


def _slice(
    documents: Documents, family: Family, key: str, spec: LayerSpec, *, norm_is_head: bool
) -> Slice:
    if spec.repaired:
        raise ExportError(f"{spec} has weights that are no member's, or a gain; {USE_HF}")
    if spec.method is None:
        return documents.taken(spec.sources[0])

    def tensors(source: Source) -> Mapping[str, Tensor]:
        if key not in OUTER_PARTS:
            return family.layer(source)
        part = family.outer_part(key, source.member)
        if key == "norm" and norm_is_head:  # one slice makes both
            own = family.outer_part("head", source.member)
            embedding = family.outer_part("embedding", source.member)[family.layout.embedding]
            part = {**part, **(own or {family.layout.head: embedding})}
        return part

    base = {} if spec.base is None else tensors(spec.base)
    form = form_of(spec, [tensors(source) for source in spec.sources], base)
    return documents.merged_part(key, form) if key in OUTER_PARTS else documents.merged(form)


def _files(family: Family, tailoring: Tailoring) -> dict[str, MemberFiles]:
    specs = [*tailoring.layers, *tailoring.outer_parts.values()]
    used = dict.fromkeys([BASE, *(member for spec in specs for member in spec.members)])
    problems: list[str] = []
    files: dict[str, MemberFiles] = {}
    for member in used:
        try:
            files[member] = files_of(family, member)
        except ExportError as error:
            problems += error.problems
    spare = [name for name in files if family.tied and family.layout.head in files[name].names]
    if spare and (len(spare) < len(files) or tailoring.outer_parts["norm"] != tailoring.embedding):
        problems.append(
            f"member {spare[0]!r} ties head and embedding and has a head in its files all the "
            f"same, which mergekit can't leave out; {WRITE_OUT}"
        )
    if problems:
        raise ExportError(problems)
    return files


def _prefix(family: Family, tailoring: Tailoring) -> str:
    """A prefix of its own for each recipe: mergekit reuses intermediate models that it finds."""
    known = repr((tailoring.digest, str(family.dtype), sorted(family.digests.items())))
    return f"gptailor-{hashlib.sha256(known.encode()).hexdigest()[:8]}"


def _head(tailoring: Tailoring, file_name: str) -> str:
    specs = {f"layer {index}": spec for index, spec in enumerate(tailoring.layers)}
    specs |= tailoring.outer_parts
    merged = "".join(f"#   {key}: {spec}\n" for key, spec in specs.items() if spec.method)
    head = _HEAD.format(version=version("gptailor"), mergekit=MERGEKIT, file=quote(file_name))
    return head + (f"#\n# What is merged, as gptailor says it:\n{merged}" if merged else "")


def _is_ours(file: Path) -> bool:
    with file.open("rb") as opened:
        return opened.read(len(_FIRST_LINE)) == _FIRST_LINE.encode()
