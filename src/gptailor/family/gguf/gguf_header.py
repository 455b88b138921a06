"""Check a GGUF file's header before a library reads the file.

Libraries trust the counts and offsets in it; here each is compared with the file's size.
"""

import functools
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptailor.errors import FamilyError
from gptailor.files.safe_read import refuse_pointer

__all__ = ["GgufHeader", "read_gguf_header"]

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# GGUF's own numbers for value types -> struct's letters
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_MAX_DIMENSIONS = 4  # ggml's own limit
_MAX_DEPTH = 3  # of arrays in arrays
_MAX_SIZE = 2**24  # of a dimension that the metadata names
_SIZES = (".embedding_length", ".feed_forward_length", ".attention.head_count", ".vocab_size")
_MAX_TEXT_BYTES = 256  # of a value that is kept; chat templates are longer


@dataclass(frozen=True)
class GgufHeader:
    """The metadata of a GGUF file, and its tensors' types."""

    values: Mapping[str, float | str | None]  # None for long texts and arrays
    types: Mapping[str, str]  # tensor to a name such as ``Q4_K``

    @property
    def architecture(self) -> str:
        """The file's name of its architecture."""
        return str(self.values.get("general.architecture"))

    def about(self, key: str) -> float | str | None:
        """The value of an architecture's own key, such as ``rope.scaling.type``."""
        return self.values.get(f"{self.architecture}.{key}")


class _Broken(Exception):
    """The header leads out of the file, or contradicts itself."""


class _Unusable(Exception):
    """The file is whole, but can't be used here."""


class _Walk:
    """A position in the file's bytes that can't leave them."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob, self.position = blob, len(_MAGIC)

    def skip(self, n_bytes: int) -> int:
        start, self.position = self.position, self.position + n_bytes
        if self.position > len(self.blob):
            raise _Broken("it ends inside its header")
        return start

    def number(self, letter: str) -> float:
        start = self.skip(struct.calcsize(f"<{letter}"))
        number: float = struct.unpack_from(f"<{letter}", self.blob, start)[0]
        return number

    def count(self, letter: str = "Q") -> int:
        return int(self.number(letter))

    def text(self) -> str:
        length = self.count()
        start = self.skip(length)
        return self.blob[start : start + length].decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> float | str | None:
        """Skip a value; a number or a short text is returned."""
        if kind in _SCALARS:
            return float(self.number(_SCALARS[kind]))
        if kind == _STRING:
            text = self.text()
            return text if len(text.encode()) <= _MAX_TEXT_BYTES else None
        if kind != _ARRAY:
            raise _Broken(f"it has a value of the unknown type {kind}")
        inner, length = self.count("I"), self.count()
        if inner in _SCALARS:
            self.skip(length * struct.calcsize(f"<{_SCALARS[inner]}"))
            return None
        if depth >= _MAX_DEPTH or length * 8 > len(self.blob) - self.position:
            raise _Broken(f"it has an array of {length} values, more than fit into it")
        for _ in range(length):
            self.value(inner, depth + 1)
        return None


def read_gguf_header(path: Path) -> GgufHeader:
    """Read a GGUF file's header, and check all of it against the file's size.

    Raises:
        FamilyError: It is not GGUF, is truncated, is one of several parts, or contradicts itself.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != _MAGIC:
                refuse_pointer(path, FamilyError)
                raise FamilyError(
                    f"{path} is not a GGUF file: it starts with {magic!r}, not {_MAGIC!r}; "
                    "for a checkpoint or an adapter, name its folder"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                return _header(_Walk(blob))
    except OSError as error:
        raise FamilyError(f"{path} can't be read: {error.strerror}") from error
    except _Unusable as error:
        raise FamilyError(f"{path}: {error}") from None
    except _Broken as error:
        raise FamilyError(f"{path}: the GGUF file is broken: {error}; copy it again") from None


def _header(walk: _Walk) -> GgufHeader:
    version = walk.count("I")
    if version not in _VERSIONS:
        raise _Broken(f"its version is {version}, and 2 and 3 can be read")
    n_tensors, n_values = walk.count(), walk.count()
    if max(n_tensors, n_values) * 8 > len(walk.blob):
        raise _Broken(f"it claims {n_tensors} tensors and {n_values} values, more than fit into it")
    values = {walk.text(): walk.value(walk.count("I")) for _ in range(n_values)}
    numbers = {key: value for key, value in values.items() if isinstance(value, float)}
    _refuse_absurd(numbers, n_tensors)
    tensors = [_tensor(walk) for _ in range(n_tensors)]
    alignment = max(int(numbers.get("general.alignment") or 32), 1)
    n_bytes = len(walk.blob) - math.ceil(walk.position / alignment) * alignment
    end, before = 0, ""
    for start, stop, name, _ in sorted(tensors):
        if stop > n_bytes:
            raise _Broken(f"tensor {name!r} lies beyond its end")
        if start < end:
            raise _Broken(f"tensors {before!r} and {name!r} overlap")
        end, before = stop, name
    return GgufHeader(values, {name: kind for _, _, name, kind in tensors})


def _refuse_absurd(numbers: Mapping[str, float], n_tensors: int) -> None:
    if numbers.get("split.count", 1) > 1:
        raise _Unusable(
            f"it is one of {numbers['split.count']:g} parts of a model; join them first with "
            "llama-gguf-split --merge"
        )
    for key, value in numbers.items():
        if not math.isfinite(value):
            continue
        if key.endswith(".block_count") and not 1 <= value <= n_tensors:
            raise _Broken(f"{key} is {value:g} but it has {n_tensors} tensors")
        if key.endswith(_SIZES) and not 1 <= value <= _MAX_SIZE:
            raise _Broken(f"{key} is {value:g}")


def _tensor(walk: _Walk) -> tuple[int, int, str, str]:
    """A tensor's start and end in bytes from the start of the data, its name, and its type."""
    name, n_dimensions = walk.text(), walk.count("I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise _Broken(f"tensor {name!r} has {n_dimensions} dimensions")
    n_elements = math.prod(walk.count() for _ in range(n_dimensions))
    number, start = walk.count("I"), walk.count()
    kind, block, block_bytes = _type_of(number)
    if not block_bytes:
        raise _Unusable(
            f"tensor {name!r} is stored as {kind}, which can't be made floats here; "
            "give the original checkpoint, or a file of another quantisation"
        )
    return start, start + math.ceil(n_elements / block) * block_bytes, name, kind


@functools.cache
def _type_of(number: int) -> tuple[str, int, int]:
    """A type's name, elements of a block, and bytes of one: 0 where it can't be dequantised."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
    from gguf.quants import dequantize

    try:
        kind = GGMLQuantizationType(number)
    except ValueError:
        return str(number), 1, 0
    block, n_bytes = GGML_QUANT_SIZES[kind]
    try:
        dequantize(np.zeros((1, n_bytes), dtype=np.uint8), kind)
    except NotImplementedError:
        n_bytes = 0
    return kind.name, block, n_bytes
