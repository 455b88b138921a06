"""Check the files of a folder before a library reads them: JSON, safetensors, shards.

Only headers are read here, and no pickle is opened.
"""

import json
import re
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from gptailor.errors import FamilyError, listed
from gptailor.family.leads import elsewhere
from gptailor.family.library_calls import one_line
from gptailor.files.safe_read import read_text, refuse_pointer

__all__ = [
    "MAX_LISTED",
    "WHOLE_WEIGHTS",
    "StoredTensor",
    "read_json",
    "refuse_bad_files",
    "tensors_of",
    "two_copies",
    "unreadable",
]

_MAX_JSON_BYTES = 64 * 2**20  # an index of 100,000 tensors is 10 MB
WHOLE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")
_WEIGHTS, _INDEX = WHOLE_WEIGHTS
_MOST_OF_POINTER = 1024  # bytes: the format's own limit
MAX_LISTED = 5  # of many names, or problems of one kind
_SHARD = re.compile(r"[\w.+ -]{1,200}\.safetensors\Z")
# links of other files do no harm
_READ = (".json", ".safetensors", ".model", ".txt", ".jinja", ".tiktoken", ".gguf", ".md")


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor as a safetensors header describes it."""

    shape: tuple[int, ...]
    dtype: str  # the format's name, such as ``BF16``
    file: str


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object."""
    text = read_text(path, most=_MAX_JSON_BYTES, noun="JSON file", error_type=FamilyError)
    try:
        data = json.loads(text, parse_constant=_constant)
    except (ValueError, RecursionError) as error:
        raise FamilyError(f"{path} is not valid JSON: {one_line(error)}") from error
    if not isinstance(data, dict):
        raise FamilyError(f"{path} must hold a JSON object, not a {type(data).__name__}")
    return data


def _constant(text: str) -> float:
    """Infinity, which some configs use as a limit; NaN is refused."""
    if text == "NaN":
        raise ValueError("it holds NaN")
    return float(text)


def unreadable(path: Path, error: BaseException) -> str:
    """Why a safetensors file can't be read: the rest of a sentence that begins with its path."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as refusal:  # safetensors reports a file without permission as missing
        return f"can't be read: {refusal.strerror}"
    return f"is not a whole safetensors file: {one_line(error)}; copy it again"


def refuse_bad_files(folder: Path) -> None:
    """Refuse pointers of Git LFS, pipes, and links out of the folder, but for the hub's cache."""
    inside = [folder.resolve()]
    if folder.parent.name == "snapshots":  # the hub's cache keeps contents beside its folders
        inside.append(folder.parent.parent.resolve() / "blobs")
    for path in sorted(folder.iterdir()):
        if path.suffix not in _READ:
            continue
        if path.is_file() and path.stat().st_size < _MOST_OF_POINTER:
            refuse_pointer(path, FamilyError)
        if not path.is_symlink():
            if path.exists() and not path.is_file():
                raise FamilyError(f"{path} is a folder or a pipe where a file should be")
            continue
        try:
            target = path.resolve()
        except (OSError, RuntimeError):  # a loop of links
            raise FamilyError(f"{path} is a link that leads nowhere") from None
        if not any(target.is_relative_to(parent) for parent in inside):
            raise FamilyError(
                f"{path} is a link out of its folder (to {target}); put the file itself there, or "
                "give the other folder"
            )


def two_copies(folder: Path) -> list[str]:
    """A note where a folder holds a single file and shards: readers differ in which they take."""
    if not (folder / _WEIGHTS).is_file() or not (folder / _INDEX).is_file():
        return []
    return [
        f"{folder} holds both {_WEIGHTS} and shards ({_INDEX}); the first is read, and other "
        "programs may read the second: remove the one that is old"
    ]


def tensors_of(folder: Path) -> dict[str, StoredTensor]:
    """The tensors in a folder's safetensors, by the files' headers."""
    index = _index_of(folder)
    held: dict[str, StoredTensor] = {}
    for file in sorted({*index.values()}) or [_WEIGHTS]:
        for name, tensor in _tensors_in(folder / file).items():
            if name in held:
                raise FamilyError(
                    f"{folder}: tensor {name} is in both {held[name].file} and {file}; which "
                    "one is meant is not known, so save the model again"
                )
            held[name] = tensor
    problems = [
        f"{folder / _INDEX}: tensor {name} is said to be in {file} but "
        + (f"is in {held[name].file}" if name in held else "no shard holds it")
        for name, file in index.items()
        if name not in held or held[name].file != file
    ]
    unnamed = sorted(held.keys() - index.keys()) if index else []
    if unnamed:
        problems.append(
            f"{folder / _INDEX} does not name {len(unnamed)} tensors ({listed(unnamed)})"
        )
    if problems:
        raise FamilyError(problems[:MAX_LISTED])
    return held


def _tensors_in(path: Path) -> dict[str, StoredTensor]:
    try:
        with safe_open(path, framework="pt"):  # compares the header with the file's size
            pass
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            # objects as lists of pairs: of a repeated name, a dict would keep the last
            pairs = json.loads(file.read(length), object_pairs_hook=list)
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise FamilyError(f"{path} {unreadable(path, error)}") from error
    found = [(name, dict(fields)) for name, fields in pairs if name != "__metadata__"]
    counts = Counter(name for name, _ in found)
    repeated = sorted(name for name, count in counts.items() if count > 1)
    if repeated:
        raise FamilyError(
            f"{path}: its header names {len(repeated)} tensors twice ({listed(repeated)}); which "
            "one is meant is not known, so save the model again"
        )
    return {
        name: StoredTensor(tuple(fields["shape"]), fields["dtype"], path.name)
        for name, fields in found
    }


def _index_of(folder: Path) -> dict[str, str]:
    """Tensor to shard, from the index; empty where one file holds everything."""
    if (folder / _WEIGHTS).is_file():
        return {}
    index = folder / _INDEX
    if not index.is_file():
        raise FamilyError(_no_weights(folder))
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not shards:
        raise FamilyError(f"{index}: weight_map must map tensor names to files")
    names = sorted({str(name) for name in shards.values()})
    outside = [name for name in names if not _SHARD.match(name)]
    if outside:
        raise FamilyError(
            f"{index}: {outside[0][:200]!r} is not a safetensors file inside the folder; shards "
            "must lie beside the index"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FamilyError(
            f"{folder}: {len(missing)} of {len(names)} shards named in {_INDEX} are missing "
            f"({listed(missing)}); copy or download them again"
        )
    return {str(tensor): str(name) for tensor, name in shards.items()}


def _no_weights(folder: Path) -> str:
    pickles = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")
    )
    if not pickles:
        return f"{folder} has no model.safetensors, nor an index of shards{elsewhere(folder)}"
    return (
        f"{folder} has its weights only as pickles ({listed(pickles)}), which can run code and are "
        'not opened; convert a model that you trust once: python -c "from transformers import '
        f"AutoModelForCausalLM as M; M.from_pretrained('{folder}', use_safetensors=False)"
        f".save_pretrained('{folder}-safetensors')\""
    )
