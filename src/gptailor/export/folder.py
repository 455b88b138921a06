"""A folder, or a file, that appears whole or not at all: written beside its place, then renamed.

Knows which folders must not be touched: a user's own files, a member of the family, the folder the
user stands in. Knows nothing of what a checkpoint holds.
"""

import ctypes
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from gptailor.errors import ExportError
from gptailor.files.atomic import hold_new, sweep

__all__ = ["MANIFEST", "file_beside", "written_beside"]

logger = logging.getLogger(__name__)

MANIFEST = "gptailor-export.json"
_FORMAT = "gptailor-export/1"
_BESIDE = ".gptailor-export."
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # linux/fcntl.h, linux/fs.h


@contextmanager
def written_beside(
    folder: Path, *, overwrite: bool, keep: Collection[Path] = (), n_bytes: int = 0
) -> Iterator[Path]:
    """Give a new folder to write into; when all went well it takes the place of `folder`.

    After a error, whatever its kind, `folder` is as it was and nothing is left beside it. A list
    of the files is added, by which a later export knows that all it replaces was written by us.
    What a killed export left beside is swept away by the next.

    Args:
        folder: Where the files shall stand in the end.
        overwrite: Whether a folder with files that are not ours may be replaced.
        keep: Files and folders that must not be inside `folder`: the members.
        n_bytes: About how much will be written; 0 if not known.

    Raises:
        ExportError: The folder may not be replaced, or something can't be written.
    """
    with _told_to_user(folder):
        target = _resolved(folder)
        _refuse(folder, target, overwrite=overwrite, keep=keep)
        with _beside(folder, target.parent, n_bytes) as beside:
            yield beside
            _write_manifest(beside)
            _settle(beside)
            _take_place(beside, target)


@contextmanager
def file_beside(
    file: Path,
    *,
    is_ours: Callable[[Path], bool],
    overwrite: bool,
    keep: Collection[Path] = (),
    n_bytes: int = 0,
) -> Iterator[Path]:
    """Give the path of a new file to write; when all went well it takes the place of `file`.

    After a error, whatever its kind, `file` is as it was and nothing is left beside it.

    Args:
        file: Where it shall stand in the end.
        is_ours: Whether a file that stands there already was written by an export.
        overwrite: Whether another file that stands there may be replaced.
        keep: Files that must survive, and folders whose files must.
        n_bytes: About how much will be written; 0 if not known.

    Raises:
        ExportError: The file may not be replaced, or can't be written.
    """
    with _told_to_user(file):
        target = _resolved(file)
        if target.is_dir():
            raise ExportError(f"{file}: is a folder; name a file to write")
        if target.exists() and any(
            target.is_relative_to(path.resolve()) for path in keep if path.exists()
        ):
            raise ExportError(f"{file}: is a file that this export is made from; name another file")
        if target.exists() and not overwrite and not is_ours(target):
            raise ExportError(
                f"{file}: is there already and no export of gptailor wrote it; "
                "name another file, or allow it to be overwritten"
            )
        with _beside(file, target.parent, n_bytes) as beside:
            yield beside / target.name
            _settle(beside)
            (beside / target.name).replace(target)
            beside.rmdir()


@contextmanager
def _told_to_user(place: Path) -> Iterator[None]:
    """What the system or a library says of a file becomes a sentence about `place`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise ExportError(
            f"{place}: can't be written: {_told(error)}; free the space or name another "
            "place (nothing was left behind)"
        ) from error


@contextmanager
def _beside(place: Path, parent: Path, n_bytes: int) -> Iterator[Path]:
    """A new locked folder in `parent`, which is made too; after a error both are gone again."""
    made: list[Path] = []
    beside: Path | None = None
    lock = -1
    try:
        made = _make_parents(parent)
        _refuse_full(place, parent, n_bytes)
        sweep(parent, _BESIDE)
        beside, lock = hold_new(lambda: tempfile.mkdtemp(prefix=_BESIDE, dir=parent))
        yield beside
    except BaseException:
        if beside is not None:
            shutil.rmtree(beside, ignore_errors=True)
        for path in reversed(made):
            _remove_if_empty(path)
        raise
    finally:
        if lock >= 0:
            os.close(lock)


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (RuntimeError, ValueError) as error:  # a loop of links; a NUL in the name
        raise ExportError(f"{str(folder)!r}: is not a usable path: {error}") from None


def _refuse(folder: Path, target: Path, *, overwrite: bool, keep: Collection[Path]) -> None:
    if target.exists() and not target.is_dir():
        raise ExportError(f"{folder}: is a file; name a folder to write the checkpoint into")
    for path in _stood_in():
        if path.resolve().is_relative_to(target):
            raise ExportError(
                f"{folder}: is or holds {path}, which an export can't replace; "
                "name a new folder inside it"
            )
    for member in keep:
        if member.exists() and member.resolve().is_relative_to(target):
            raise ExportError(
                f"{folder}: is or holds {member}, which this export is made from; "
                "name another folder"
            )
    if target.is_dir() and not overwrite and not _is_ours(target):
        raise ExportError(
            f"{folder}: is not empty and holds files that no export of gptailor wrote; "
            "name another folder, or allow it to be overwritten"
        )


def _stood_in() -> Iterator[Path]:
    """The user's home, and the folder that the user stands in, unless it is gone."""
    yield Path(os.path.expanduser("~"))  # Path.home raises where none is set
    with suppress(FileNotFoundError):
        yield Path.cwd()


def _is_ours(target: Path) -> bool:
    """Whether every file in the folder is one that an earlier export lists as its own."""
    files = _files(target)
    if not files:
        return not any(target.iterdir())
    try:
        manifest = json.loads((target / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    if not isinstance(manifest, dict) or manifest.get("format") != _FORMAT:
        return False
    listed = manifest.get("files")
    return isinstance(listed, list) and set(files) <= {str(name) for name in listed}


def _files(folder: Path) -> list[str]:
    """Everything in a folder that is not a folder, by its path inside; links are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names + links]
    return sorted(found)


def _make_parents(parent: Path) -> list[Path]:
    """Make a folder and those above it; return the ones that were missing, outermost first."""
    missing = []
    while not parent.exists():
        missing.append(parent)
        parent = parent.parent
    made: list[Path] = []
    for path in reversed(missing):
        try:
            path.mkdir()
        except OSError:
            for earlier in reversed(made):
                _remove_if_empty(earlier)
            raise
        made.append(path)
    return made


def _refuse_full(folder: Path, parent: Path, n_bytes: int) -> None:
    free = shutil.disk_usage(parent).free
    if free < n_bytes:
        raise ExportError(
            f"{folder}: needs about {n_bytes:,} bytes but the disk has {free:,} free; "
            "free some space or name a place on another disk"
        )


def _write_manifest(beside: Path) -> None:
    manifest = {"format": _FORMAT, "files": sorted([*_files(beside), MANIFEST])}
    (beside / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")


def _settle(beside: Path) -> None:
    """Give everything the rights that the user's umask leaves, and wait until it is on disk."""
    umask = os.umask(0)
    os.umask(umask)
    for name in _files(beside):
        path = beside / name
        path.chmod(0o666 & ~umask)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    beside.chmod(0o777 & ~umask)  # mkdtemp's is for the owner alone


def _take_place(beside: Path, target: Path) -> None:
    """Rename, so that `target` is at any moment the old folder or the new one."""
    if not target.exists():
        beside.rename(target)
    elif _exchanged(beside, target):
        shutil.rmtree(beside, ignore_errors=True)
    else:
        aside = Path(tempfile.mkdtemp(prefix=".gptailor-replaced.", dir=target.parent))
        target.rename(aside)  # an empty folder may be renamed onto
        try:
            beside.rename(target)
        except OSError:
            aside.rename(target)
            raise
        shutil.rmtree(aside, ignore_errors=True)
    if beside.exists():
        logger.warning("%s could not be removed; it holds what %s was", beside, target)


def _exchanged(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system can't (only Linux can)."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    names = os.fsencode(first), os.fsencode(second)
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0)


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError as error:
        logger.debug("%s stays: %s", folder, error)


def _told(error: OSError | SafetensorError) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error).splitlines()[0] if str(error) else type(error).__name__
