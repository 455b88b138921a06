"""The record of a study on disk: one JSON object a line, only ever appended to.

A line is on the disk before anyone acts on what it says. A line torn by a kill or a power cut is
taken off at the next start, and that is recorded too. One process at a time may write; a record
that something else removes or changes is not written on.
"""

import contextlib
import errno
import fcntl
import json
import logging
import os
from collections.abc import Iterator
from io import FileIO
from pathlib import Path
from typing import IO, Any

from pydantic import ValidationError

from gptailor.core.merge_spec import MergeSpec
from gptailor.core.metrics import METRICS, Metric
from gptailor.core.plugins import MERGE_METHODS
from gptailor.errors import ConfigError, RecordError
from gptailor.record.entries import (
    RECORD_FORMAT,
    Entry,
    EntryT,
    Header,
    TruncatedEntry,
    of_type,
    read_entry,
)
from gptailor.record.fields import first_problem

__all__ = ["RECORD", "Journal", "read_record"]

RECORD = "record.jsonl"
_BEGINNING = b'{"kind":"header",'

logger = logging.getLogger(__name__)


class Journal:
    """An open record. Use it as a context manager: the lock goes with it.

    Args:
        folder: The run's folder; made if it does not exist.

    Attributes:
        path: The file.
        entries: Every entry, in order; those of kinds that this version does not know are left out.

    Raises:
        RecordError: The folder can't be written, another process holds it, or a line of the
            record is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / RECORD
        with contextlib.ExitStack() as stack, _os_errors(folder):
            _make_folder(folder)
            stack.enter_context(_lock(folder))
            self._file = stack.enter_context(_open(self.path))
            read, self._end = _parse(self.path)
            self.entries = [entry for _, entry in read]
            dropped = self.path.stat().st_size - self._end
            if dropped and not self._end:
                _refuse_foreign(self.path)
            if dropped:
                self._file.truncate(self._end)
                logger.warning("%s: took off a torn last line of %d bytes", self.path, dropped)
            if dropped and self._end:  # a torn header leaves an empty record: it begins anew
                self.append(TruncatedEntry(dropped_bytes=dropped))
            self._open_files = stack.pop_all()

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, entry: Entry) -> None:
        """Write one line and wait until it is on the disk.

        Raises:
            RecordError: The disk is full or the file can't be written; nothing of the line is left.
                Or the record was moved or changed by something else.
        """
        line = entry.to_line()
        self._refuse_changed()
        try:
            if self._file.write(line) != len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the next start takes the torn line off
                self._file.truncate(self._end)
            raise RecordError(
                f"{self.path}: can't be written ({error.strerror}) after {self._end:,} bytes; what "
                "was recorded is safe: make room and run the same command again"
            ) from None
        self._end += len(line)
        self.entries.append(entry)

    def _refuse_changed(self) -> None:
        """Refuse to write where the record was removed, replaced or written by something else."""
        try:
            now = self.path.stat()
        except OSError as error:
            change = f"is gone ({error.strerror})"
        else:
            if not os.path.samestat(now, os.fstat(self._file.fileno())):
                change = "was replaced by another file"
            elif now.st_size != self._end:
                change = f"has {now.st_size:,} bytes, not the {self._end:,} that were written"
            else:
                return
        raise RecordError(
            f"{self.path}: {change}: something else changed it while the study ran, so the study "
            "stops; put it back and run the same command again, or name a new folder with --out"
        )

    def of(self, entry_type: type[EntryT], kind: str | None = None) -> Iterator[EntryT]:
        """The entries of one type, or of one kind of it, in order."""
        return of_type(self.entries, entry_type, kind)

    def header(self) -> Header | None:
        """The first line, or None if nothing is recorded yet."""
        return next(self.of(Header), None)

    def close(self) -> None:
        """Close the file and let go of the lock."""
        self._open_files.close()


def read_record(path: Path) -> list[tuple[int, Entry]]:
    """Read a record without locking it: line numbers and entries; a torn last line is left out."""
    if not path.exists():
        raise RecordError(f"{path}: no such record; name the folder of a run")
    return _parse(path)[0]


def _make_folder(folder: Path) -> None:
    """Make the folder and those above it, each on the disk with its name."""
    if not folder.exists():
        _make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        with contextlib.suppress(PermissionError):  # a parent that may not be listed
            _sync_names(folder.parent)


def _lock(folder: Path) -> IO[bytes]:
    """Lock the folder; the system unlocks it when the process dies, however it dies."""
    _refuse_odd(path := folder / ".lock")
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


def _open(path: Path) -> FileIO:
    """Open the record; the name of a new one is on the disk, so that no power cut takes it."""
    _refuse_odd(path)
    is_new = not path.exists()
    file = path.open("a+b", buffering=0)
    if is_new:
        _sync_names(path.parent)
    return file


def _sync_names(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _refuse_foreign(path: Path) -> None:
    """Refuse to take off a first line that is not the beginning of a header."""
    found = path.read_bytes().rstrip(b"\0\n")  # a power cut leaves zeros
    if not found.startswith(_BEGINNING) and not _BEGINNING.startswith(found):
        raise RecordError(
            f"{path}: is no record of gptailor's; move it away, or name another folder with --out"
        )


def _refuse_odd(path: Path) -> None:
    """Refuse a device or a pipe, which would be read without end or waited for."""
    if path.exists() and not path.is_file() and not path.is_dir():  # opening a folder fails anyway
        raise RecordError(
            f"{path}: is no plain file (a pipe, say, or a device); name the folder of a run"
        )


@contextlib.contextmanager
def _os_errors(folder: Path) -> Iterator[None]:
    """Turn the system's errors into a sentence about the folder."""
    try:
        yield
    except OSError as error:
        raise RecordError(
            f"{folder}: can't be written: {error.strerror}; make it writable, or name another "
            "folder with --out"
        ) from None


def _parse(path: Path) -> tuple[list[tuple[int, Entry]], int]:
    """Line numbers and entries, and the offset in bytes at which the last whole line ends."""
    try:
        _refuse_odd(path)
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise RecordError(f"{path}: can't be read: {error.strerror}") from None
    entries: list[tuple[int, Entry]] = []
    end = 0
    for number, line in enumerate(lines[:-1], start=1):
        plain, where = _json_object(line), f"{path}, line {number}"
        if plain is None and number == len(lines) - 1 and not lines[-1]:
            return entries, end  # torn, and the newline was written before the rest
        if plain is None:
            raise RecordError(f"{where}: damaged; restore it from a copy, or name a new folder")
        if number == 1 and plain.get("format") != RECORD_FORMAT:
            found = plain.get("format")
            raise RecordError(f"{path}: its format is {found!r}, not {RECORD_FORMAT!r}")
        if number == 1 and plain["kind"] != "header":
            raise RecordError(
                f"{where}: a record begins with a header, not with {plain['kind']!r}; restore the "
                "file from a copy"
            )
        try:
            entry = read_entry(plain)
        except ValidationError as error:
            problem = first_problem(error)
            raise RecordError(
                f"{where}: {problem}; restore the file from a copy, or name a new folder"
            ) from None
        if isinstance(entry, Header):
            _know_plugins(entry, where)
        if entry is not None:
            entries.append((number, entry))
        end += len(line) + 1
    return entries, end


def _know_plugins(header: Header, where: str) -> None:
    """Know the plug-in merge methods and metrics by what the record says; nothing is imported."""
    try:
        for name, plain in header.merge_methods.items():
            MERGE_METHODS.remember(name, MergeSpec.from_declaration(plain))
        for name, facts in header.metrics.items():
            METRICS.remember(name, Metric(facts.higher_is_better, facts.meaning, facts.transform))
    except ConfigError as error:
        raise RecordError([f"{where}: {problem}" for problem in error.problems]) from None
    except (TypeError, ValueError, KeyError, AttributeError):
        raise RecordError(
            f"{where}: merge_methods: does not declare a merge method; restore the file from a copy"
        ) from None
    known = {*METRICS.builtin, *header.metrics}
    for goal in header.goals:
        if goal.metric not in known or (goal.proxy or goal.metric) not in known:
            raise RecordError(
                f"{where}: {goal.metric!r} of task {goal.task!r} is not a metric of this version, "
                "and the record does not say which way is better; use the version that searched"
            )


def _json_object(line: bytes) -> dict[str, Any] | None:
    try:
        plain = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return plain if isinstance(plain, dict) and "kind" in plain else None
