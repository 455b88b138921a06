"""Upload an exported folder to a repository of the Hugging Face hub, in one commit.

The hub's library takes the token from ``HF_TOKEN`` or ``hf auth login``, the hub from
``HF_ENDPOINT``; it shows a bar on a terminal, and sends no large file that the hub has already.
"""

import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, errors

from gptailor.errors import ExportError, listed
from gptailor.export.folder import MANIFEST, files_in_manifest
from gptailor.family.hub import HUB_ERRORS, calm_hub
from gptailor.family.library_calls import one_line

__all__ = ["Repository", "open_repository", "push_folder"]

# of a new repository, or of the hub itself: no reason to refuse, and never deleted
_HARMLESS = (".gitattributes", "README.md", "LICENSE", "LICENSE.md")


@dataclass(frozen=True, slots=True)
class Repository:
    """A repository of models that may be written to."""

    name: str  # OWNER/NAME
    commit: str | None = None  # its latest, which a push must follow; None if it is yet to be made
    # files that an earlier export wrote, or all where these are to be replaced
    replaced: tuple[str, ...] = ()


def open_repository(name: str, *, overwrite: bool = False) -> Repository:
    """Look at a repository before a model is made for it; one that is missing is no error.

    Args:
        name: ``OWNER/NAME``; the owner is the user who is logged in if absent.
        overwrite: Whether a repository of files that no export wrote may be replaced.

    Raises:
        ExportError: Nobody is logged in, the hub can't be reached, or it holds other files.
    """
    api = HfApi()
    with _hub_errors_explained(name):
        user = api.whoami()["name"]
        name = name if "/" in name else f"{user}/{name}"
        try:
            info = api.model_info(name)
        except errors.RepositoryNotFoundError:
            return Repository(name)
        files = [file.rfilename for file in info.siblings or ()]
        if MANIFEST in files:
            return Repository(name, info.sha, _earlier_export(api, name, info.sha))
    others = [file for file in files if file not in _HARMLESS]
    if others and not overwrite:
        raise ExportError(
            f"--push {name}: the repository holds files that no export of gptailor wrote "
            f"({listed(others)}); name another repository, or replace them with --overwrite"
        )
    return Repository(name, info.sha, tuple(others))


def push_folder(folder: Path, repository: Repository, *, public: bool = False) -> str:
    """Upload an exported folder; files of an earlier export that are not in it are deleted.

    All is one commit, so readers see the earlier model or this one. A repository that is missing
    is made, and is private unless `public`; one that is there stays as visible as it was.

    Returns:
        The address of the commit.

    Raises:
        ExportError: It can't be uploaded; the folder stays.
    """
    api, name = HfApi(), repository.name
    inside = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    stale = sorted({*repository.replaced} - {*inside})
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        *(CommitOperationAdd(file, folder / file) for file in sorted(inside)),
        *(CommitOperationDelete(file) for file in stale),
    ]
    with _hub_errors_explained(name, folder):
        if repository.commit is None:
            api.create_repo(name, private=not public)
        done = api.create_commit(
            name,
            operations,
            commit_message="Upload a model tailored by gptailor",
            parent_commit=repository.commit,
        )
    return str(done.commit_url)


def _earlier_export(api: HfApi, name: str, commit: str | None) -> tuple[str, ...]:
    """The files that the manifest in a repository names."""
    with tempfile.TemporaryDirectory() as folder:
        path = api.hf_hub_download(name, MANIFEST, revision=commit, local_dir=folder)
        listed_there = files_in_manifest(Path(path))
    # a repository's manifest may be anybody's
    return tuple(file for file in listed_there if file not in _HARMLESS)


@contextmanager
def _hub_errors_explained(name: str, folder: Path | None = None) -> Iterator[None]:
    """Turn errors of the hub and its library into a sentence; `folder` is what was exported."""
    try:
        with calm_hub():
            yield
    except ExportError:
        raise
    except HUB_ERRORS as error:
        kept = "" if folder is None else f"; the checkpoint is in {folder}"
        raise ExportError(f"--push {name}: {_reason(error)}{kept}") from error


# the first that an error is an instance of is said
_REASONS: Sequence[tuple[type[Exception], str]] = (
    (
        errors.LocalTokenNotFoundError,
        "nobody is logged in to the model hub; run 'hf auth login', or set HF_TOKEN to a token "
        "that may write",
    ),
    (
        errors.OfflineModeIsEnabled,
        "the model hub is switched off; unset HF_HUB_OFFLINE",
    ),
    (
        errors.HFValidationError,
        "is not a repository's name; write OWNER/NAME, with letters, digits, '-', '_' and '.'",
    ),
    (json.JSONDecodeError, "the model hub's answer can't be read; check HF_ENDPOINT"),
)
_STATUSES = {
    401: "the model hub does not accept the token; run 'hf auth login' again, or set HF_TOKEN",
    403: "the token may not write there; name a repository of your own, or use a token that may "
    "write to that owner's",
    404: "the model hub has no such owner, or the token may not write there; check the name",
    412: "the repository was changed meanwhile; push again",
}


def _reason(error: BaseException) -> str:
    for kind, reason in _REASONS:
        if isinstance(error, kind):
            return reason
    if isinstance(error, errors.HfHubHTTPError):
        status = error.response.status_code
        return _STATUSES.get(status) or f"the model hub answered {status}: {one_line(error)}"
    if isinstance(error, ValueError):
        return f"the model hub does not take it: {one_line(error)}"
    return f"the model hub can't be reached ({type(error).__name__}); check the network"
