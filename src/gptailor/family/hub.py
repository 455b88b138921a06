"""Fetch a model from the Hugging Face hub, or find it in the hub's cache."""

import contextlib
import errno
import fnmatch
import re
import shlex
from pathlib import Path

from huggingface_hub import errors, get_cached_repo_tree, hf_hub_download, snapshot_download

from gptailor.errors import FamilyError, listed
from gptailor.family.library_calls import quiet

__all__ = ["commit_of", "fetch"]

# weights as safetensors only: pickles can run code, and other formats double the download
_WANTED = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md"]
# folders hold other formats and checkpoints of the training; consolidated* are second copies
_UNWANTED = ["*/*", "consolidated*"]
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PART = r"[A-Za-z0-9][\w.-]*"
_HUB_ID = re.compile(
    rf"(?P<name>{_PART}(/{_PART})?)(/(?P<file>[\w./-]+\.gguf))?(@(?P<revision>[\w./-]+))?\Z"
)
_SNAPSHOT = re.compile(r"[0-9a-f]{40}\Z")
# rests of a sentence; an error may be of several of these kinds, and the first is said
_REASONS: tuple[tuple[type[Exception], str], ...] = (
    (
        errors.IncompleteSnapshotError,
        "is not whole in the hub's cache here; finish it with '{command}' and a network",
    ),
    (
        errors.OfflineModeIsEnabled,
        "is not a {noun} here nor in the hub's cache, and the model hub is switched off "
        "(HF_HUB_OFFLINE); fetch it first with '{command}', or give a folder",
    ),
    (
        errors.GatedRepoError,
        "is gated: its owner must give you access; ask for it on the model's page, then log in "
        "with 'hf auth login' or set HF_TOKEN",
    ),
    (
        errors.RepositoryNotFoundError,
        "is not a {noun} here, and the model hub has no such repository, or it is private; "
        "check the name, or log in with 'hf auth login'",
    ),
    (errors.RevisionNotFoundError, "can't be fetched: the repository has no such revision"),
    (
        errors.RemoteEntryNotFoundError,
        "can't be fetched: the repository has no such file; check its name on the model's page",
    ),
    (errors.DisabledRepoError, "was disabled on the model hub; take another model"),
)


def fetch(text: str, revision: str | None = None) -> Path:
    """Fetch a repository's folder, or one GGUF file of it, into the hub's cache.

    Args:
        text: ``NAME``, ``NAME@REVISION``, or either with ``/FILE.gguf`` behind the name.
        revision: A branch, tag or commit; the main branch where neither says one.
    """
    match = _HUB_ID.match(text)
    file = match and match["file"]
    if match is None or ".." in text or (not file and text.endswith((".gguf", ".safetensors"))):
        raise FamilyError(f"{text} does not exist; check the path")
    name, at = match["name"], match["revision"]
    if at and revision is not None and at != revision:
        raise FamilyError(f"{text} names one revision and 'revision' another ({revision}); say one")
    revision = at or revision
    try:
        with quiet():
            if file:
                return Path(hf_hub_download(name, file, revision=revision))
            folder = snapshot_download(
                name, revision=revision, allow_patterns=_WANTED, ignore_patterns=_UNWANTED
            )
    except errors.HFValidationError:
        raise FamilyError(f"{name} does not exist; check the path") from None
    except (OSError, ValueError) as error:  # the hub's own derive from these
        full_name = f"{name}/{file}" if file else name
        full_name += f" (revision {revision})" if revision else ""
        raise FamilyError(f"{full_name} {_reason(name, file, error)}") from error
    _refuse_other_weights(name, revision, Path(folder))
    return Path(folder)


def commit_of(location: Path) -> str | None:
    """The commit of a folder or file inside the hub's cache, or None."""
    for folder in (location, *location.parents):
        if folder.parent.name == "snapshots" and _SNAPSHOT.match(folder.name):
            return folder.name
    return None


def _reason(name: str, file: str | None, error: BaseException) -> str:
    """Why something could not be fetched, and what to do: the rest of a sentence."""
    noun = "file" if file else "folder"
    command = f"hf download {name} {file or ''}".rstrip()
    cause = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) else error
    for kind, reason in _REASONS:
        if isinstance(error, kind) or isinstance(cause, kind):
            return reason.format(noun=noun, command=command)
    if isinstance(cause, errors.HfHubHTTPError):
        status = cause.response.status_code
        return (
            f"can't be fetched: the model hub answered {status}; try again later, or give a folder"
        )
    if isinstance(cause, OSError) and cause.errno is not None:
        full = "; make room, or set HF_HOME to another disk" if cause.errno == errno.ENOSPC else ""
        return f"can't be kept in the hub's cache: {cause.strerror}{full}"
    return (
        f"is not a {noun} here nor in the hub's cache, and can't be fetched from the model hub "
        f"({type(cause or error).__name__}); check name and network, fetch it with '{command}' "
        "where there is one, or give a folder"
    )


def _refuse_other_weights(name: str, revision: str | None, folder: Path) -> None:
    """Refuse a repository whose weights are in other formats, which were not fetched."""
    files = [path.name for path in folder.iterdir()]
    with contextlib.suppress(errors.CachedRepoTreeNotFoundError):  # an older library's cache
        files = [file.path for file in get_cached_repo_tree(name, revision=revision)]
    if fnmatch.filter(files, "*.safetensors"):
        return
    pickles = sorted(file for kind in _PICKLES for file in fnmatch.filter(files, kind))
    ggufs = sorted(fnmatch.filter(files, "*.gguf"))
    if pickles:
        folder_made = f"{name.rpartition('/')[2]}-safetensors"
        code = _conversion(name, revision, folder_made, "adapter_config.json" in files)
        raise FamilyError(
            f"{name} has its weights only as pickles ({listed(pickles)}), which can run code and "
            "are not fetched; convert a model that you trust once, and give the folder "
            f"{folder_made}: python -c {shlex.quote(code)}"
        )
    if ggufs:
        raise FamilyError(
            f"{name} has its weights as GGUF ({listed(ggufs)}); name one of them, as in "
            f"{name}/{ggufs[0]}"
        )
    raise FamilyError(f"{name} has no weights as safetensors in the hub's repository")


def _conversion(name: str, revision: str | None, folder: str, adapter: bool) -> str:
    """Python code that makes a folder of safetensors of a repository of pickles."""
    which = repr(name) if revision is None else f"{name!r}, revision={revision!r}"
    if adapter:
        return (
            "import torch; from huggingface_hub import snapshot_download; "
            "from safetensors.torch import save_file; "
            f"d = snapshot_download({which}, local_dir={folder!r}); "
            "a = torch.load(d + '/adapter_model.bin', map_location='cpu', weights_only=True); "
            "save_file({k: v.clone() for k, v in a.items()}, d + '/adapter_model.safetensors')"
        )
    return (
        "from transformers import AutoModelForCausalLM as M, AutoTokenizer as T; "
        f"M.from_pretrained({which}, use_safetensors=False).save_pretrained({folder!r}); "
        f"T.from_pretrained({which}).save_pretrained({folder!r})"
    )
