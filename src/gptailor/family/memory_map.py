"""Members larger than memory: their tensors stay in files that the system maps.

A mapped tensor is read when it is used, and its pages can be released at any time. Tensors that no
file holds in the needed form (cast, merged from an adapter, dequantised) are written to one.
"""

import ctypes
import itertools
import mmap
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from gptailor.errors import FamilyError

__all__ = ["let_go", "map_tensors", "trim"]

_FILE_BYTES = 2**28  # written at a time: this much is in memory twice while writing
_MADV_DONTNEED = 4  # madvise(2)


def map_tensors(state: Mapping[str, Tensor], known: Mapping[str, Tensor] = {}) -> dict[str, Tensor]:
    """Return the same tensors, mapped from files, and those of `known` as they are.

    Files go to the system's folder for temporary files (``TMPDIR``) and are unlinked there: they
    disappear with the process, however it ends.
    """
    ranges = _mapped_ranges()
    loose = {
        name: tensor
        for name, tensor in state.items()
        if tensor.numel() and tensor is not known.get(name) and not _inside(tensor, ranges)
    }
    first: dict[tuple[int, torch.Size, tuple[int, ...], torch.dtype], str] = {}
    leading = {  # one tensor in memory becomes one in its file
        name: first.setdefault((one.data_ptr(), one.shape, one.stride(), one.dtype), name)
        for name, one in loose.items()
    }
    found: dict[str, Tensor] = {}
    for group in _groups({name: loose[name] for name in first.values()}):
        found |= _through_a_file(group)
    return {name: found[leading[name]] if name in leading else one for name, one in state.items()}


def let_go(tensors: Iterable[Tensor]) -> None:
    """Release the memory of tensors that are mapped (on Linux); they are read again when needed."""
    if platform.system() != "Linux":
        return
    ranges = _mapped_ranges()
    madvise = ctypes.CDLL(None).madvise
    for tensor in tensors:
        if not _inside(tensor, ranges):
            continue
        start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
        end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
        if end > start:  # private pages of a file that were never written: nothing is lost
            madvise(ctypes.c_void_p(start), ctypes.c_size_t(end - start), _MADV_DONTNEED)


def trim() -> None:
    """Return memory that was freed and is still held by glibc to the system."""
    if platform.libc_ver()[0] == "glibc":
        ctypes.CDLL(None).malloc_trim(0)


def _groups(state: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Neighbouring tensors, as many as go into one file."""
    filled = itertools.accumulate(tensor.nbytes for tensor in state.values())
    numbered = zip(filled, state.items(), strict=True)
    for _, group in itertools.groupby(numbered, key=lambda one: one[0] // _FILE_BYTES):
        yield dict(item for _, item in group)


def _through_a_file(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    try:
        with tempfile.TemporaryDirectory(prefix="gptailor-") as folder:
            path = Path(folder) / "members.safetensors"
            save_file({name: _apart(tensor) for name, tensor in tensors.items()}, path)
            return load_file(path)  # mapped, and so alive after the file's name is gone
    except (OSError, SafetensorError) as error:
        why = "no space is left" if "No space left" in str(error) else str(error)
        raise FamilyError(
            f"{tempfile.gettempdir()}: members can't be kept in files there ({why}); let TMPDIR "
            "name a folder with room for the family, or leave engine.member_bytes out"
        ) from error


def _apart(tensor: Tensor) -> Tensor:
    """The tensor with a storage of its own, as a file wants it."""
    whole = tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes
    return tensor if whole else tensor.clone(memory_format=torch.contiguous_format)


def _inside(tensor: Tensor, ranges: list[tuple[int, int]]) -> bool:
    first = tensor.data_ptr()
    return any(low <= first and first + tensor.nbytes <= high for low, high in ranges)


def _mapped_ranges() -> list[tuple[int, int]]:
    """Address ranges in which files are mapped as data; none where the system does not say."""
    try:
        lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    ranges: list[tuple[int, int]] = []
    for line in lines:
        addresses, permissions, _, _, inode = line.split()[:5]
        if inode == "0" or "x" in permissions:
            continue
        low, high = (int(end, 16) for end in addresses.split("-"))
        if ranges and ranges[-1][1] == low:  # one file may have several lines
            ranges[-1] = (ranges[-1][0], high)
        else:
            ranges.append((low, high))
    return ranges
