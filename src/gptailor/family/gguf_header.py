"""Walk over a GGUF file's header before anything else reads the file.

Readers of this format trust its counts and offsets; here each is held against the file's size.
Knows nothing of what keys and tensors mean, but for the count of layers.
"""

import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path

from gptailor.errors import FamilyError

__all__ = ["refuse_broken_gguf"]

_MAGIC, _VERSIONS = b"GGUF", (2, 3)
_STRING, _ARRAY = 8, 9
# GGUF's own numbers for value types -> struct's letters
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q"}
_SCALARS[12] = "d"
_MAX_DIMENSIONS = 4  # ggml's own limit
_MAX_DEPTH = 3  # of arrays in arrays
_MAX_SIZE = 2**24  # of a dimension that the metadata names
_SIZES = (".embedding_length", ".feed_forward_length", ".attention.head_count", ".vocab_size")


class _Broken(Exception):
    """The header leads out of the file, or says what can't be."""


class _Walk:
    """A position in the file's bytes that can't leave them."""

    def __init__(self, blob: mmap.mmap) -> None:
        self.blob, self.position = blob, 0

    def skip(self, n_bytes: int) -> int:
        start, self.position = self.position, self.position + n_bytes
        if self.position > len(self.blob):
            raise _Broken("it ends inside its header")
        return start

    def number(self, letter: str) -> float:
        start = self.skip(struct.calcsize(f"<{letter}"))
        return float(struct.unpack_from(f"<{letter}", self.blob, start)[0])

    def count(self, letter: str = "Q") -> int:
        start = self.skip(struct.calcsize(f"<{letter}"))
        return int(struct.unpack_from(f"<{letter}", self.blob, start)[0])

    def text(self) -> str:
        length = self.count()
        start = self.skip(length)
        return self.blob[start : start + length].decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> float | None:
        """Pass over a value; a number is given back."""
        if kind == _STRING:
            self.skip(self.count())
            return None
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise _Broken(f"it has a value of the unknown type {kind}")
            return self.number(_SCALARS[kind])
        inner, length = self.count("I"), self.count()
        if inner in _SCALARS:
            self.skip(length * struct.calcsize(f"<{_SCALARS[inner]}"))
            return None
        if depth >= _MAX_DEPTH or length * 8 > len(self.blob) - self.position:
            raise _Broken(f"it has an array of {length} values, more than fit into it")
        for _ in range(length):
            self.value(inner, depth + 1)
        return None


def refuse_broken_gguf(path: Path) -> None:
    """Refuse a file that is not GGUF, is truncated, or whose header can't be true.

    Raises:
        FamilyError: What is wrong with it.
    """
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != _MAGIC:
                raise FamilyError(
                    f"{path} is not a GGUF file: it starts with {magic!r}, not {_MAGIC!r}; "
                    "for a checkpoint or an adapter, name its folder"
                )
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as blob:
                _walk(_Walk(blob))
    except OSError as fault:
        raise FamilyError(f"{path} can't be read: {fault.strerror}") from fault
    except _Broken as fault:
        raise FamilyError(f"{path}: the GGUF file is broken: {fault}; copy it again") from None


def _walk(walk: _Walk) -> None:
    walk.skip(len(_MAGIC))
    version = walk.count("I")
    if version not in _VERSIONS:
        raise _Broken(f"its version is {version}, and 2 and 3 can be read")
    n_tensors, n_values = walk.count(), walk.count()
    if max(n_tensors, n_values) * 8 > len(walk.blob):
        raise _Broken(f"it claims {n_tensors} tensors and {n_values} values, more than fit into it")
    numbers = {}
    for _ in range(n_values):
        key = walk.text()
        numbers[key] = walk.value(walk.count("I"))
    _refuse_absurd(numbers, n_tensors)
    ends = [_tensor_end(walk) for _ in range(n_tensors)]
    alignment = max(int(numbers.get("general.alignment") or 32), 1)
    start = math.ceil(walk.position / alignment) * alignment
    for name, end in ends:
        if start + end > len(walk.blob):
            raise _Broken(f"tensor {name!r} lies beyond its end")


def _refuse_absurd(numbers: Mapping[str, float | None], n_tensors: int) -> None:
    for key, value in numbers.items():
        if value is None or not math.isfinite(value):
            continue
        if key.endswith(".block_count") and not 1 <= value <= n_tensors:
            raise _Broken(f"{key} is {value:g} but it has {n_tensors} tensors")
        if key.endswith(_SIZES) and not 1 <= value <= _MAX_SIZE:
            raise _Broken(f"{key} is {value:g}")


def _tensor_end(walk: _Walk) -> tuple[str, int]:
    """A tensor's name, and where it ends behind the start of the data."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    name, n_dimensions = walk.text(), walk.count("I")
    if n_dimensions > _MAX_DIMENSIONS:
        raise _Broken(f"tensor {name!r} has {n_dimensions} dimensions")
    n_elements = math.prod(walk.count() for _ in range(n_dimensions))
    kind, offset = walk.count("I"), walk.count()
    if kind not in [known.value for known in GGMLQuantizationType]:
        raise _Broken(f"tensor {name!r} has the unknown type {kind}")
    block, n_bytes = GGML_QUANT_SIZES[GGMLQuantizationType(kind)]
    return name, offset + n_elements // block * n_bytes
