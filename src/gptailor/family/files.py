"""Look over the files of a folder before anything reads them: JSON, safetensors, shards.

Only headers are read here, and no pickle is opened. Knows nothing of what tensors mean.
"""

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open

from gptailor.errors import FamilyError

__all__ = ["LIBRARY_FAULTS", "one_line", "read_json", "shapes_of", "told", "unreadable"]

# what transformers, tokenizers and torch raise on broken input
LIBRARY_FAULTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    MemoryError,
    NotImplementedError,
    OSError,
    RuntimeError,
    SafetensorError,
    StrictDataclassError,
    TypeError,
    ValueError,
)
_MAX_JSON_BYTES = 64 * 2**20  # an index of 100,000 tensors is 10 MB
_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"
_TOLD = 5  # of many faults of one kind


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FamilyError: The file is missing, huge, not JSON, or not an object.
    """
    try:
        if path.stat().st_size > _MAX_JSON_BYTES:
            raise FamilyError(f"{path}: {path.stat().st_size} bytes are too many for this file")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FamilyError(f"{path} is missing") from None
    except OSError as fault:
        raise FamilyError(f"{path} can't be read: {fault.strerror}") from fault
    except (ValueError, RecursionError) as fault:
        raise FamilyError(f"{path} is not valid JSON: {one_line(fault)}") from fault
    if not isinstance(data, dict):
        raise FamilyError(f"{path} must hold a JSON object, not a {type(data).__name__}")
    return data


def one_line(fault: BaseException, limit: int = 300) -> str:
    """An exception's text as one short line."""
    text = " ".join(str(fault).split())
    if not text or isinstance(fault, KeyError):  # a KeyError's text is the key alone
        text = f"{type(fault).__name__} {text}".strip()
    return text if len(text) <= limit else f"{text[:limit]}..."


def told(names: list[str]) -> str:
    """The first few of many names."""
    rest = f", and {len(names) - _TOLD} more" if len(names) > _TOLD else ""
    return ", ".join(names[:_TOLD]) + rest


def unreadable(path: Path, fault: BaseException) -> str:
    """Why a safetensors file could not be read: the rest of a sentence that begins with it."""
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as refusal:  # safetensors calls a file that it may not read missing
        return f"can't be read: {refusal.strerror}"
    return f"is not a whole safetensors file: {one_line(fault)}; copy it again"


def shapes_of(folder: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors in a folder's safetensors, from the files' headers.

    Raises:
        FamilyError: A file is missing, truncated, or not safetensors.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for path in _shards_of(folder):
        try:
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  # not a mapping
                    shapes[name] = tuple(file.get_slice(name).get_shape())
        except (SafetensorError, OSError, ValueError) as fault:
            raise FamilyError(f"{path} {unreadable(path, fault)}") from fault
    return shapes


def _shards_of(folder: Path) -> list[Path]:
    if (folder / _WEIGHTS).is_file():
        return [folder / _WEIGHTS]
    index = folder / _INDEX
    if not index.is_file():
        raise FamilyError(_no_weights(folder))
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise FamilyError(f"{index}: weight_map must map tensor names to files")
    names = sorted({str(name) for name in places.values()})
    outside = [name for name in names if Path(name).name != name or name in ("", ".", "..")]
    if outside:
        raise FamilyError(
            f"{index}: {outside[0]!r} is not a file inside the folder; shards must lie beside it"
        )
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise FamilyError(
            f"{folder}: {len(missing)} of {len(names)} shards named in {_INDEX} are missing "
            f"({told(missing)}); copy or download them again"
        )
    return [folder / name for name in names]


def _no_weights(folder: Path) -> str:
    pickles = sorted(
        path.name for path in folder.iterdir() if path.suffix in (".bin", ".pt", ".pth")
    )
    if not pickles:
        return f"{folder} has no model.safetensors, nor an index of shards"
    return (
        f"{folder} has its weights only as pickles ({told(pickles)}), which can run code and are "
        'not opened; convert a model that you trust once: python -c "from transformers import '
        f"AutoModelForCausalLM as M; M.from_pretrained('{folder}', use_safetensors=False)"
        f".save_pretrained('{folder}-safetensors')\""
    )
