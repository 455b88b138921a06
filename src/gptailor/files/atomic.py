"""Write a file or a folder so that it appears whole or not at all.

It is written inside a temporary folder next to its final path, then renamed. The writer holds the
system's lock on the temporary folder, and a lock ends with its process: a temporary folder without
a lock was left by a killed process, and the next writer there deletes it.
"""

import ctypes
import fcntl
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gptailor.errors import UserError

__all__ = ["move_over", "temporary_folder", "write_atomically"]

logger = logging.getLogger(__name__)

_PREFIX = ".gptailor-tmp."
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file by renaming a temporary one: readers see the old content or the new one.

    Raises:
        UserError: The file can't be written; the old one is untouched and nothing else is left.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(path.parent) as folder:
            with (folder / "new").open("wb") as file:
                file.write(content.encode() if isinstance(content, str) else content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(folder / "new", path)
    except OSError as error:
        raise UserError(
            f"{path}: can't be written: {error.strerror}; make room there and let it be written, "
            "then run the same command again"
        ) from None


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Make a new hidden folder in `parent` and lock it; it is deleted at the end.

    Unlocked temporary folders in `parent` are deleted first.

    Raises:
        OSError: No folder can be made there.
    """
    for left in parent.glob(f"{_PREFIX}*"):
        try:
            lock = _locked(left)
        except OSError:
            continue  # in use, a link, a file, or not ours to delete
        shutil.rmtree(left, ignore_errors=True)
        os.close(lock)
    folder, held = _new_locked(parent)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            logger.warning("%s could not be deleted", folder)
        if held is not None:
            os.close(held)


def move_over(new: Path, target: Path) -> None:
    """Rename a folder to `target`; a folder that is there is moved to `new`, for deletion.

    In one step where the system can exchange two folders (Linux). Elsewhere `target` is missing for
    a moment, and a process killed then leaves the old folder as ``.gptailor-replaced.*``.

    Raises:
        OSError: It can't be renamed; `target` is as it was.
    """
    if not target.exists():
        new.rename(target)
    elif not _exchanged(new, target):
        old = Path(tempfile.mkdtemp(prefix=".gptailor-replaced.", dir=target.parent))
        target.rename(old)  # an empty folder may be renamed onto
        try:
            new.rename(target)
        except OSError:
            old.rename(target)
            raise
        old.rename(new)


def _exchanged(first: Path, second: Path) -> bool:
    """Exchange two folders in one step; False where the system can't."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _new_locked(parent: Path) -> tuple[Path, int | None]:
    """Make a folder and lock it; the lock is None where the file system has no locks."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
        try:
            return folder, _locked(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for one that was left, before it was locked
        except OSError:
            return folder, None


def _locked(folder: Path) -> int:
    """Lock a folder until the returned file descriptor is closed, or the process ends.

    Raises:
        OSError: BlockingIOError if another process holds it, FileNotFoundError if it is gone.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.stat(folder)  # it may have been deleted before it was locked
    except OSError:
        os.close(lock)
        raise
    return lock
