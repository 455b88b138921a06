"""Read a file at an untrusted path: only a plain file of a bounded size.

A pipe would block, a device would be read without end, and a file of weights would fill the memory.
"""

import os
import stat
from pathlib import Path

from gptailor.errors import UserError

__all__ = ["read_plain", "read_text", "refuse_pointer"]

_POINTER = b"version https://git-lfs.github.com/spec/"


def read_plain(path: Path, *, most: int, noun: str, error_type: type[UserError]) -> bytes:
    """Read a whole file of at most `most` bytes, which messages call a `noun`.

    Raises:
        UserError: It does not exist, is no plain file, is too large, or can't be read.
    """
    try:
        # without waiting: opening a pipe would wait for a writer
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            read = _read(handle, most)
        finally:
            os.close(handle)
    except FileNotFoundError:
        raise error_type(f"{path}: no such file") from None
    except IsADirectoryError:
        raise error_type(f"{path}: is a folder; name a {noun}") from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise error_type(f"{path}: can't be read: {reason}") from None
    if read is None:
        raise error_type(f"{path}: is no plain file (a pipe, say, or a device); name a {noun}")
    _refuse_pointer(path, read, error_type)
    if len(read) > most:
        raise error_type(f"{path}: too large; a {noun} may have {most:,} bytes at most")
    return read


def read_text(path: Path, *, most: int, noun: str, error_type: type[UserError]) -> str:
    """Read a whole file of UTF-8 text, without a byte order mark; raises as `read_plain`."""
    try:
        return read_plain(path, most=most, noun=noun, error_type=error_type).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise error_type(f"{path}: not UTF-8 text (byte {error.start}); save it as UTF-8") from None


def refuse_pointer(path: Path, error_type: type[UserError]) -> None:
    """Refuse what git leaves in the place of a large file where Git LFS is missing.

    Raises:
        UserError: How to get the file itself. A file that can't be read is left to its reader.
    """
    try:
        with path.open("rb") as file:
            start = file.read(len(_POINTER))
    except OSError:
        return
    _refuse_pointer(path, start, error_type)


def _refuse_pointer(path: Path, start: bytes, error_type: type[UserError]) -> None:
    if start.startswith(_POINTER):
        raise error_type(
            f"{path} is a Git LFS pointer, not the file itself: run 'git lfs install' and 'git lfs "
            "pull' in its repository, or download the file again"
        )


def _read(handle: int, most: int) -> bytes | None:
    """At most one byte more than `most`; None where it is no plain file."""
    found = os.fstat(handle)
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError
    if not stat.S_ISREG(found.st_mode):
        return None
    with os.fdopen(handle, "rb", closefd=False) as file:
        return file.read(min(most, found.st_size) + 1)  # allocates no more than this
