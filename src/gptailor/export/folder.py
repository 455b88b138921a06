"""Which folder or file an export may replace, and its replacement in one step.

Refused are a user's own files, members of the family, and the folder that the user works in.
"""

import json
import os
import shutil
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from safetensors import SafetensorError

from gptailor.errors import ExportError
from gptailor.files.atomic import move_over, temporary_folder

__all__ = ["MANIFEST", "files_in_manifest", "refuse_folder", "replacing_file", "replacing_folder"]

MANIFEST = "gptailor-export.json"
_FORMAT = "gptailor-export/1"


@contextmanager
def replacing_folder(
    folder: Path, *, overwrite: bool, keep: Collection[Path] = (), n_bytes: int = 0
) -> Iterator[Path]:
    """Yield a new folder to write into, which replaces `folder` if no error is raised.

    After an error `folder` is as it was and nothing is left beside it. A manifest of the files is
    added, by which a later export knows that all it replaces was written by an export; `overwrite`
    replaces other files, too. Nothing in `keep` may be inside.

    Raises:
        ExportError: The folder may not be replaced, or something can't be written.
    """
    with _os_errors_explained(folder):
        target = _resolved(folder)
        refuse_folder(folder, overwrite=overwrite, keep=keep)
        with _space_for(folder, target.parent, n_bytes) as temporary:
            new = temporary / "new"
            new.mkdir()
            yield new
            manifest = {"format": _FORMAT, "files": sorted([*_files(new), MANIFEST])}
            (new / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
            _sync(new)
            move_over(new, target)


@contextmanager
def replacing_file(
    file: Path,
    *,
    is_ours: Callable[[Path], bool],
    overwrite: bool,
    keep: Collection[Path] = (),
    n_bytes: int = 0,
) -> Iterator[Path]:
    """Yield the path of a new file to write, which replaces `file` if no error is raised.

    After an error `file` is as it was and nothing is left beside it. `is_ours` says whether an
    export wrote an existing file; `overwrite` replaces another, too, but none in `keep`.

    Raises:
        ExportError: The file may not be replaced, or can't be written.
    """
    with _os_errors_explained(file):
        target = _resolved(file)
        if target.is_dir():
            raise ExportError(f"{file}: is a folder; name a file to write")
        kept = [path.resolve() for path in keep if path.exists()]
        if target.exists() and any(map(target.is_relative_to, kept)):
            raise ExportError(f"{file}: is a file that this export is made from; name another file")
        if target.exists() and not overwrite and not is_ours(target):
            raise ExportError(
                f"{file}: is there already and no export of gptailor wrote it; "
                "name another file, or allow it to be overwritten"
            )
        with _space_for(file, target.parent, n_bytes) as temporary:
            yield temporary / target.name
            _sync(temporary)
            (temporary / target.name).replace(target)


def refuse_folder(folder: Path, *, overwrite: bool, keep: Collection[Path] = ()) -> None:
    """Refuse a folder that `replacing_folder` would not replace.

    Raises:
        ExportError: Why not.
    """
    target = _resolved(folder)
    if target.exists() and not target.is_dir():
        raise ExportError(f"{folder}: is a file; name a folder to write the checkpoint into")
    never = [Path(os.path.expanduser("~"))]  # Path.home raises where none is set
    with suppress(FileNotFoundError):
        never.append(Path.cwd())
    for path in never:
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


def files_in_manifest(path: Path) -> list[str]:
    """The files that an export has listed as its own; empty if it did not write this manifest."""
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return []
    match manifest:
        case {"format": str(format_), "files": [*listed]} if format_ == _FORMAT:
            return list(map(str, listed))
    return []


@contextmanager
def _os_errors_explained(path: Path) -> Iterator[None]:
    """Turn errors of the system, or of safetensors, into a sentence about `path`."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = error.strerror.lower() if isinstance(error, OSError) and error.strerror else None
        reason = reason or str(error).partition("\n")[0] or type(error).__name__
        raise ExportError(
            f"{path}: can't be written: {reason}; free the space or name another "
            "place (nothing was left behind)"
        ) from error


@contextmanager
def _space_for(path: Path, parent: Path, n_bytes: int) -> Iterator[Path]:
    """A temporary folder in `parent`, made with its parents; after an error all are gone again."""
    missing = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(parent).free
        if free < n_bytes:
            raise ExportError(
                f"{path}: needs about {n_bytes:,} bytes but the disk has {free:,} free; "
                "free some space or name a place on another disk"
            )
        with temporary_folder(parent) as temporary:
            yield temporary
    except BaseException:
        for folder in missing:
            with suppress(OSError):  # not empty, or never made
                folder.rmdir()
        raise


def _resolved(folder: Path) -> Path:
    try:
        return folder.resolve()
    except (RuntimeError, ValueError) as error:  # a loop of links; a NUL in the name
        raise ExportError(f"{str(folder)!r}: is not a usable path: {error}") from None


def _is_ours(target: Path) -> bool:
    """Whether every file in the folder is one that an earlier export lists as its own."""
    files = _files(target)
    if not files:
        return not any(target.iterdir())
    return set(files) <= set(files_in_manifest(target / MANIFEST))


def _files(folder: Path) -> list[str]:
    """Everything in a folder that is not a folder, by its path inside; links are not followed."""
    found = []
    for parent, folders, names in os.walk(folder):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        found += [Path(parent, name).relative_to(folder).as_posix() for name in names + links]
    return sorted(found)


def _sync(folder: Path) -> None:
    """Give every file the rights that the user's umask leaves, and wait until it is on disk."""
    umask = os.umask(0)
    os.umask(umask)
    for name in _files(folder):
        path = folder / name
        path.chmod(0o666 & ~umask)
        with path.open("rb") as file:
            os.fsync(file.fileno())
