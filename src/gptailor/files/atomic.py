"""Files and folders that are written beside their place: who is at work there, and what was left.

Whoever writes one holds the system's lock on it, which goes with the process, however that dies. So
what nobody holds was left by a process that was killed, and the next one sweeps it away. Knows
nothing of what is written.
"""

import fcntl
import os
import shutil
from collections.abc import Callable
from pathlib import Path

__all__ = ["hold_new", "sweep"]

_NO_LOCK = -1


def hold_new(make: Callable[[], str]) -> tuple[Path, int]:
    """Make a file or a folder under a new name and lock it.

    Args:
        make: Makes it; called again where a sweep came between making and locking.

    Returns:
        Its path and the lock's file descriptor; -1 on a file system without locks, where nothing
        is ever swept.
    """
    while True:
        path = Path(make())
        try:
            lock = _locked(path)
        except (BlockingIOError, FileNotFoundError):
            continue
        except OSError:
            return path, _NO_LOCK
        if _still_there(path, lock):
            return path, lock
        os.close(lock)


def sweep(parent: Path, prefix: str) -> None:
    """Remove what killed processes left in a folder.

    Args:
        parent: The folder; what can't be removed in it stays.
        prefix: How the names of what may be removed begin.
    """
    for path in parent.glob(f"{prefix}*"):
        if path.is_symlink():
            continue
        try:
            lock = _locked(path)
        except OSError:
            continue  # somebody is at work there, or it is not ours to touch
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            _remove(path)
        os.close(lock)


def _locked(path: Path) -> int:
    """Lock a file or a folder until the file descriptor is closed, or its process is gone."""
    lock = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        raise
    return lock


def _still_there(path: Path, lock: int) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return  # a folder that may not be written
