"""Fetch a model from the Hugging Face hub, or find it in the hub's cache."""

import contextlib
import errno
import fnmatch
import logging
import re
import shlex
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

from huggingface_hub import errors, get_cached_repo_tree, hf_hub_download, snapshot_download
from huggingface_hub.utils import logging as hub_logging

from gptailor.errors import FamilyError, listed
from gptailor.family.library_calls import quiet
from gptailor.family.weight_files import WHOLE_WEIGHTS, read_json

__all__ = ["HUB_ERRORS", "HUB_ID", "calm_hub", "commit_of", "fetch"]

# what the hub's library raises; hf_xet's are bare RuntimeErrors
HUB_ERRORS: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    RuntimeError,
    errors.HTTPError,  # type: ignore[attr-defined]  # of httpx or httpx2, as the hub's version has
)
_WANTED = ["*.json", "*.jinja", "*.model", "*.txt", "*.tiktoken", "README.md"]
# folders hold other formats and checkpoints of the training
_UNWANTED = ["*/*", "trainer_state.json"]
# safetensors only: pickles can run code, and other formats double the download
_WEIGHTS = "*.safetensors"
_SECOND_COPIES = "consolidated*"
_ADAPTER = "adapter_model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_PART = r"[A-Za-z0-9][\w.-]*"
HUB_ID = re.compile(
    rf"(?P<name>{_PART}(/{_PART})?)(/(?P<file>[\w./-]+\.gguf))?(@(?P<revision>[\w./-]+))?\Z",
    re.ASCII,
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
    match = HUB_ID.match(text)
    file = match and match["file"]
    if match is None or ".." in text or (not file and text.endswith((".gguf", ".safetensors"))):
        raise FamilyError(f"{text} does not exist; check the path")
    name, at = match["name"], match["revision"]
    if at and revision is not None and at != revision:
        raise FamilyError(f"{text} names one revision and 'revision' another ({revision}); say one")
    revision = at or revision
    try:
        if not file:
            folder = _folder(name, revision)
        else:
            with calm_hub():
                return Path(hf_hub_download(name, file, revision=revision))
    except errors.HFValidationError:
        raise FamilyError(f"{name} does not exist; check the path") from None
    except HUB_ERRORS as error:
        full_name = f"{name}/{file}" if file else name
        full_name += f" (revision {revision})" if revision else ""
        raise FamilyError(f"{full_name} {_reason(name, file, error)}") from error
    _refuse_other_weights(name, revision, _files(name, folder))
    return folder


@contextlib.contextmanager
def calm_hub() -> Iterator[None]:
    """Silence the hub's library but for its bars, which it shows on a terminal alone."""
    level = hub_logging.get_verbosity()
    hub_logging.set_verbosity(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        hub_logging.set_verbosity(level)


def commit_of(location: Path) -> str | None:
    """The commit of a folder or file inside the hub's cache, or None."""
    for folder in (location, *location.parents):
        if folder.parent.name == "snapshots" and _SNAPSHOT.match(folder.name):
            return folder.name
    return None


def _folder(name: str, revision: str | None) -> Path:
    """Fetch what is read of a repository: first the small files, then the weights they name."""

    def fetched(*more: str) -> Path:
        wanted = [*_WANTED, *more]
        return Path(
            snapshot_download(
                name, revision=revision, allow_patterns=wanted, ignore_patterns=_UNWANTED
            )
        )

    with quiet():
        folder = fetched()
    weights = _weights(folder, _files(name, folder))
    missing = any(not (folder / file).is_file() for file in weights)
    with calm_hub() if missing else quiet():  # no bars where nothing is to be done
        return fetched(*weights)


def _files(name: str, folder: Path) -> Sequence[str]:
    """The files of a repository at the commit of a folder in the cache."""
    with contextlib.suppress(errors.CachedRepoTreeNotFoundError):
        return [file.path for file in get_cached_repo_tree(name, revision=folder.name)]
    return [path.name for path in folder.iterdir()]  # an older library's cache


def _weights(folder: Path, files: Sequence[str]) -> list[str]:
    """The files of weights that may be read, of all that a repository has."""
    whole, index = WHOLE_WEIGHTS
    wanted = {whole, _ADAPTER}  # shards beside a whole file are a second copy
    if index in files and whole not in files:
        shards = read_json(folder / index).get("weight_map")
        wanted = {_ADAPTER, *map(str, shards.values() if isinstance(shards, dict) else ())}
    if found := sorted(wanted & {*files}):
        return found
    tops = fnmatch.filter((file for file in files if "/" not in file), _WEIGHTS)
    return [file for file in tops if not fnmatch.fnmatch(file, _SECOND_COPIES)]


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


def _refuse_other_weights(name: str, revision: str | None, files: Sequence[str]) -> None:
    """Refuse a repository whose weights are in other formats, which were not fetched."""
    if fnmatch.filter(files, _WEIGHTS):
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
