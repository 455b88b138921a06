"""The record of a study: one JSON object a line, only ever appended to.

A line is on the disk before anyone acts on what it says. A line torn by a kill or a power cut is
taken off at the next start, and that is recorded too. One process at a time may write; a record
that is taken away or written by something else is not written on. Knows nothing of what the lines
mean.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
import stat
from collections.abc import Iterator, Mapping
from io import FileIO
from pathlib import Path
from typing import IO, Any

from gptailor.errors import RecordError

__all__ = ["RECORD", "Journal", "read_record"]

RECORD = "record.jsonl"
FORMAT = "gptailor-record/1"
_BEGINNING = b'{"kind":"header",'
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
            _made(folder)
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
            self._end = end
            with _told_to_user(folder):
                dropped = self.path.stat().st_size - end
                if dropped:
                    if not entries:
                        _refuse_foreign(self.path)
                    self._file.truncate(end)
            if dropped:
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
                Or the record is not where it was, or not as this process left it.
        """
        entry = {"kind": kind, **fields}
        line = json.dumps(entry, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
        plain = line.encode() + b"\n"
        self._refuse_changed()
        try:
            if self._file.write(plain) != len(plain):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the next start takes the torn line off
                self._file.truncate(self._end)
            raise RecordError(
                f"{self.path}: can't be written ({error.strerror}) after {self._end:,} bytes; what "
                "was recorded is safe: make room and run the same command again"
            ) from None
        self._end += len(plain)
        read: dict[str, Any] = json.loads(line)  # what a later start would read
        if kind not in _MANY:
            self._few.append(read)
        return read

    def _refuse_changed(self) -> None:
        """Stop where a line would be written into a file that nobody finds, or behind a stranger's.

        Raises:
            RecordError: The record was removed, replaced or written by something else.
        """
        told = None
        try:
            there = self.path.stat()
        except OSError as error:
            told = f"is gone ({error.strerror})"
        else:
            if not os.path.samestat(there, os.fstat(self._file.fileno())):
                told = "was replaced by another file"
            elif there.st_size != self._end:
                told = f"has {there.st_size:,} bytes, not the {self._end:,} that were written"
        if told is not None:
            raise RecordError(
                f"{self.path}: {told}: something else changed it while the study ran, so the study "
                "stops; put it back and run the same command again, or name a new folder with --out"
            )

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


def _made(folder: Path) -> None:
    """Make the folder and those above it, each on the disk with its name."""
    if not folder.exists():
        _made(folder.parent)
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # a parent that may not be listed
            _settle(folder.parent)


def _locked(folder: Path) -> IO[bytes]:
    """Hold the folder; the system lets go when the process dies, however it dies."""
    path = folder / ".lock"
    if path.exists():
        _refuse_odd(path)
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
            raise  # a file system without locks, say: nobody else is running it
        raise RecordError(
            f"{folder}: another process is running this study; wait for it or name another folder"
        ) from None
    return lock


def _opened(path: Path) -> FileIO:
    """Open the record; a new one is on the disk with its name, so that no power cut takes it."""
    fresh = not path.exists()
    if not fresh:
        _refuse_odd(path)
    file = path.open("a+b", buffering=0)
    if fresh:
        _settle(path.parent)
    return file


def _settle(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_foreign(path: Path) -> None:
    """Refuse to take off a first line that no header of ours began with.

    Raises:
        RecordError: The file is something else.
    """
    told = path.read_bytes().rstrip(b"\0\n")  # a power cut leaves zeros
    if not told.startswith(_BEGINNING) and not _BEGINNING.startswith(told):
        raise RecordError(
            f"{path}: is no record of gptailor's; move it away, or name another folder with --out"
        )


def _refuse_odd(path: Path) -> None:
    """Refuse what is read without end, or waited for.

    Raises:
        RecordError: There is a device or a pipe in the record's place.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):  # a folder is told when it is opened
        raise RecordError(
            f"{path}: is no plain file (a pipe, say, or a device); name the folder of a run"
        )


@contextlib.contextmanager
def _told_to_user(folder: Path) -> Iterator[None]:
    """What the system says becomes a sentence about the folder."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{folder}: can't be written: {error.strerror}; make it writable, or name another "
            "folder with --out"
        ) from None


def _parse(path: Path) -> tuple[list[dict[str, Any]], int]:
    """The entries, and where the last whole line ends."""
    try:
        _refuse_odd(path)
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"{path}: can't be read: {error.strerror}") from None
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
