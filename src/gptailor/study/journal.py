"""The record of a study: one JSON object a line, only ever appended to.

A line is on the disk before anyone acts on what it says. A line torn by a kill or a power cut is
taken off at the next start, and that is recorded too. One process at a time may write. Knows
nothing of what the lines mean.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

from gptailor.errors import RecordError

__all__ = ["RECORD", "Journal", "read_record"]

RECORD = "record.jsonl"
FORMAT = "gptailor-record/1"
_MANY = ("asked", "trial")  # read from the disk when asked for: they would fill the memory

logger = logging.getLogger(__name__)


class Journal:
    """An open record. Use it as a context manager: the lock goes with it.

    Args:
        folder: The run's folder; made if it is not there.

    Raises:
        RecordError: The folder can't be written, another process holds it, or a line in the
            middle of the record is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        with _told_to_user(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._lock = _locked(folder)
        try:
            with _told_to_user(folder):
                self._file = _opened(self.path)
        except BaseException:
            self._lock.close()
            raise
        self._few: list[dict[str, Any]] = []
        try:
            entries, end = _parse(self.path)
            self._few = [entry for entry in entries if entry["kind"] not in _MANY]
            dropped = self.path.stat().st_size - end
            if dropped:
                self._file.truncate(end)
                logger.warning("%s: took off a torn last line of %d bytes", self.path, dropped)
                if entries:  # a torn header leaves an empty record: it begins anew
                    self.append("repaired", dropped_bytes=dropped)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Write one line and wait until it is on the disk.

        Raises:
            RecordError: The disk is full or the file can't be written; nothing of the line is left.
        """
        entry = {"kind": kind, **fields}
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        end = self._file.seek(0, os.SEEK_END)
        plain = line.encode() + b"\n"
        try:
            if self._file.write(plain) != len(plain):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as fault:
            with contextlib.suppress(OSError):  # else the next start takes the torn line off
                self._file.truncate(end)
            raise RecordError(
                f"{self.path}: can't be written ({fault.strerror}) after {end:,} bytes; what was "
                "recorded is safe: make room and run the same command again"
            ) from None
        read: dict[str, Any] = json.loads(line)  # what a later start would read
        if kind not in _MANY:
            self._few.append(read)
        return read

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Every entry in order, read from the disk."""
        return _parse(self.path)[0]

    def of(self, kind: str) -> Iterator[dict[str, Any]]:
        """The entries of one kind, in order."""
        entries = self.entries if kind in _MANY else self._few
        return (entry for entry in entries if entry["kind"] == kind)

    def header(self) -> Mapping[str, Any] | None:
        """The first line, or None if nothing is recorded yet."""
        return next(self.of("header"), None)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._file.close()
        self._lock.close()


def read_record(path: Path) -> list[dict[str, Any]]:
    """Read a record without locking it; a torn last line is passed over.

    Raises:
        RecordError: There is no record, or a line of it is damaged.
    """
    if not path.exists():
        raise RecordError(f"{path}: no such record; name the folder of a run")
    return _parse(path)[0]


def _locked(folder: Path) -> IO[bytes]:
    """Hold the folder; the system lets go when the process dies, however it dies."""
    lock = (folder / ".lock").open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as fault:
        lock.close()
        if fault.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise  # a file system without locks, say: nobody else is running it
        raise RecordError(
            f"{folder}: another process is running this study; wait for it or name another folder"
        ) from None
    return lock


def _opened(path: Path) -> FileIO:
    """Open the record; a new one is on the disk with its name, so that no power cut takes it."""
    fresh = not path.exists()
    file = path.open("a+b", buffering=0)
    if fresh:
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    return file


@contextlib.contextmanager
def _told_to_user(folder: Path) -> Iterator[None]:
    """What the system says becomes a sentence about the folder."""
    try:
        yield
    except OSError as fault:
        raise RecordError(
            f"{folder}: can't be written: {fault.strerror}; make it writable, or name another "
            "folder with --out"
        ) from None


def _parse(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The entries, and where the last whole line ends."""
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as fault:
        raise RecordError(f"{path}: can't be read: {fault.strerror}") from None
    entries: list[dict[str, Any]] = []
    end = 0
    for number, line in enumerate(lines[:-1], start=1):
        entry = _entry(line)
        if entry is None and number == len(lines) - 1 and not lines[-1]:
            return entries, end  # torn, and the newline was written before the rest
        if entry is None:
            raise RecordError(
                f"{path}, line {number}: damaged; restore it from a copy, or name a new folder"
            )
        entries.append(entry)
        end += len(line) + 1
    if entries and entries[0].get("format") != FORMAT:
        raise RecordError(f"{path}: its format is {entries[0].get('format')!r}, not {FORMAT!r}")
    return entries, end


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return entry if isinstance(entry, dict) and "kind" in entry else None
