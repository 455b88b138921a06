"""Fetch a model from the Hugging Face hub, or find it in the hub's cache.

Only weights as safetensors, configs and tokenizer files are fetched.
"""

import contextlib
import errno
import fnmatch
import re
import shlex
from pathlib import Path

import huggingface_hub.errors as hub_errors
from huggingface_hub import get_cached_repo_tree, hf_hub_download, snapshot_download

from gptailor.errors import FamilyError
from gptailor.family.quiet import quiet
from gptailor.family.weight_files import listed

__all__ = ["commit_of", "fetch", "is_hub_id"]

# weights as safetensors only: pickles can run code, and other formats double the download
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md"]
# folders hold other formats and checkpoints of the training; consolidated* are second copies
_UNWANTED = ["*/*", "consolidated*"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(rf"{_PART}(/{_PART})?(@[\w./-]+)?\Z")
_HUB_FILE = re.compile(rf"(?P<name>{_PART}/{_PART})/(?P<file>[\w./-]+\.gguf)(@(?P<at>[\w./-]+))?\Z")
_SNAPSHOT = re.compile(r"[0-9a-f]{40}\Z")


def is_hub_id(text: str) -> bool:
    """Whether a text may name a repository, ``NAME@REVISION``, or a GGUF file in one."""
    if _HUB_FILE.match(text):
        return ".." not in text
    return bool(_HUB_ID.match(text)) and not text.endswith((".gguf", ".safetensors"))


def fetch(text: str, revision: str | None = None) -> Path:
    """Fetch a repository, or one GGUF file of it, into the hub's cache.

    Args:
        text: ``NAME``, ``NAME@REVISION``, or either with ``/FILE.gguf`` behind the name.
        revision: A branch, tag or commit; the main branch where neither says one.

    Returns:
        The folder of the files, or the GGUF file.

    Raises:
        FamilyError: It can't be fetched, or has no weights as safetensors.
    """
    name, file, revision = _parts(text, revision)
    at = name if file is None else f"{name}/{file}"
    at = at if revision is None else f"{at} (revision {revision})"
    try:
        with quiet():
            if file is not None:
                return Path(hf_hub_download(name, file, revision=revision))
            folder = snapshot_download(
                name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
    except hub_errors.HFValidationError:
        raise FamilyError(f"{name} does not exist; check the path") from None
    except (OSError, ValueError, hub_errors.EntryNotFoundError) as error:  # bases of the hub's own
        raise FamilyError(f"{at} {_reason(name, file, error)}") from error
    _refuse_other_weights(name, revision, Path(folder))
    return Path(folder)


def commit_of(location: Path) -> str | None:
    """The commit of a folder or file inside the hub's cache, or None."""
    for folder in (location, *location.parents):
        if folder.parent.name == "snapshots" and _SNAPSHOT.match(folder.name):
            return folder.name
    return None


def _parts(text: str, revision: str | None) -> tuple[str, str | None, str | None]:
    match = _HUB_FILE.match(text)
    if match is None:
        name, _, at = text.partition("@")
        file = None
    else:
        name, file, at = match["name"], match["file"], match["at"] or ""
    if at and revision is not None and at != revision:
        raise FamilyError(f"{text} names one revision and 'revision' another ({revision}); say one")
    return name, file, at or revision


def _reason(name: str, file: str | None, error: BaseException) -> str:
    """Why something could not be fetched, and what to do: the rest of a sentence."""
    noun = "folder" if file is None else "file"
    command = f"'hf download {name}'" if file is None else f"'hf download {name} {file}'"
    cause = error.__cause__ if isinstance(error, hub_errors.LocalEntryNotFoundError) else error
    if isinstance(error, hub_errors.IncompleteSnapshotError):
        return f"is not whole in the hub's cache here; finish it with {command} and a network"
    if isinstance(cause, hub_errors.OfflineModeIsEnabled):
        return (
            f"is not a {noun} here nor in the hub's cache, and the model hub is switched off "
            f"(HF_HUB_OFFLINE); fetch it first with {command}, or give a folder"
        )
    for kinds, reason in (
        (
            hub_errors.GatedRepoError,
            "is gated: its owner must give you access; ask for it on the model's page, then log in "
            "with 'hf auth login' or set HF_TOKEN",
        ),
        (
            hub_errors.RepositoryNotFoundError,
            f"is not a {noun} here, and the model hub has no such repository, or it is private; "
            "check the name, or log in with 'hf auth login'",
        ),
        (hub_errors.RevisionNotFoundError, "can't be fetched: the repository has no such revision"),
        (
            hub_errors.RemoteEntryNotFoundError,
            "can't be fetched: the repository has no such file; check its name on the model's page",
        ),
        (hub_errors.DisabledRepoError, "was disabled on the model hub; take another model"),
    ):
        if isinstance(cause, kinds):
            return reason
    if isinstance(cause, hub_errors.HfHubHTTPError):
        status = cause.response.status_code
        return (
            f"can't be fetched: the model hub answered {status}; try again later, or give a folder"
        )
    if isinstance(cause, OSError) and cause.errno is not None:
        full = "; make room, or set HF_HOME to another disk" if cause.errno == errno.ENOSPC else ""
        return f"can't be kept in the hub's cache: {cause.strerror}{full}"
    return (
        f"is not a {noun} here nor in the hub's cache, and can't be fetched from the model hub "
        f"({type(cause or error).__name__}); check name and network, fetch it with {command} where "
        "there is one, or give a folder"
    )


def _refuse_other_weights(name: str, revision: str | None, folder: Path) -> None:
    """Refuse a repository whose weights are in other formats, which were not fetched."""
    files = [path.name for path in folder.iterdir()]
    # it is raised where an older library wrote the cache
    with contextlib.suppress(hub_errors.CachedRepoTreeNotFoundError):
        files = [file.path for file in get_cached_repo_tree(name, revision=revision)]
    if fnmatch.filter(files, "*.safetensors"):
        return
    pickles = sorted(file for kind in _PICKLES for file in fnmatch.filter(files, kind))
    if pickles:
        raise FamilyError(f"{name} {_pickles_only(name, revision, files, pickles)}")
    ggufs = sorted(fnmatch.filter(files, "*.gguf"))
    if ggufs:
        raise FamilyError(
            f"{name} has its weights as GGUF ({listed(ggufs)}); name one of them, as in "
            f"{name}/{ggufs[0]}"
        )
    raise FamilyError(f"{name} has no weights as safetensors in the hub's repository")


def _pickles_only(name: str, revision: str | None, files: list[str], pickles: list[str]) -> str:
    said = "" if revision is None else f", revision={revision!r}"
    folder = f"{name.rpartition('/')[2]}-safetensors"
    if "adapter_config.json" in files:
        code = (
            "import torch; from huggingface_hub import snapshot_download; "
            "from safetensors.torch import save_file; "
            f"d = snapshot_download({name!r}{said}, local_dir={folder!r}); "
            "a = torch.load(d + '/adapter_model.bin', map_location='cpu', weights_only=True); "
            "save_file({k: v.clone() for k, v in a.items()}, d + '/adapter_model.safetensors')"
        )
    else:
        code = (
            "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
            f"M.from_pretrained({name!r}{said}, use_safetensors=False)"
            f".save_pretrained({folder!r}); "
            f"T.from_pretrained({name!r}{said}).save_pretrained({folder!r})"
        )
    return (
        f"has its weights only as pickles ({listed(pickles)}), which can run code and are not "
        "fetched; convert a model that you trust once, and give the folder "
        f"{folder}: python -c {shlex.quote(code)}"
    )
