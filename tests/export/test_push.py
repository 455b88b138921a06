"""An exported folder goes to a hub and comes back, over HTTP to a hub on this machine."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from local_hub import COMMIT, TOKEN, Hub, card_faults, serving

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ExportError
from gptailor.export.checkpoint import export_checkpoint
from gptailor.export.folder import replacing_folder
from gptailor.export.push import open_repository, push_folder
from gptailor.family import MemberSpec, load_family

TAILORING = Tailoring((LayerSpec.of("base:0"), LayerSpec.of("math:2"), LayerSpec.of("code:5")))


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub on which jo is logged in."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with serving(Hub(), monkeypatch) as served:
        yield served


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """What an export leaves, of two small files."""
    with replacing_folder(tmp_path / "model", overwrite=False) as new:
        card = "---\nlicense: mit\npipeline_tag: text-generation\nlibrary_name: transformers\n---\n"
        (new / "README.md").write_text(card, encoding="utf-8")
        (new / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "model"


def contents(folder: Path) -> dict[str, bytes]:
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


@pytest.mark.slow
def test_an_export_is_pushed_in_one_commit_and_replaced_by_the_next(
    hub: Hub, llama: Any, tmp_path: Path
) -> None:
    out = tmp_path / "model"
    export_checkpoint(llama.family, TAILORING, out, shard_bytes=20_000)
    push_folder(out, open_repository("small"))
    found = dict(hub.files("jo/small"))
    assert found.pop(".gitattributes") == b"* text"
    assert found == contents(out)
    assert hub.private == {"jo/small": True}
    assert card_faults(found["README.md"].decode()) == []
    n_sent = len(hub.sent)
    assert n_sent == len(list(out.glob("*.safetensors"))) > 2

    read = load_family(MemberSpec(path="jo/small"), {}, dtype=torch.float32)
    direct = load_family(MemberSpec(path=str(out)), {}, dtype=torch.float32)
    assert read.digests == direct.digests

    hub.files("jo/small")["picture.png"] = b"somebody's"
    push_folder(out, open_repository("jo/small"))
    assert len(hub.sent) == n_sent  # the hub has them
    export_checkpoint(llama.family, TAILORING, out)  # one file instead of shards
    push_folder(out, open_repository("jo/small"))
    assert hub.files("jo/small") == contents(out) | {
        ".gitattributes": b"* text",
        "picture.png": b"somebody's",
    }


def test_a_new_repository_is_public_where_that_is_asked(hub: Hub, folder: Path) -> None:
    url = push_folder(folder, open_repository("jo/small"), public=True)
    assert url == f"{hub.address}/jo/small/commit/{hub.head('jo/small')}"
    assert hub.private == {"jo/small": False}
    assert hub.files("jo/small").items() >= contents(folder).items()


def test_other_files_are_replaced_only_with_overwrite(hub: Hub, folder: Path) -> None:
    hub.repositories["jo/mine"] = {COMMIT: {"README.md": b"old", "pytorch_model.bin": b"mine"}}
    with pytest.raises(ExportError, match=r"no export of gptailor wrote \(pytorch_model.bin\);"):
        open_repository("jo/mine")
    push_folder(folder, open_repository("jo/mine", overwrite=True))
    assert hub.files("jo/mine") == contents(folder)
    hub.repositories["jo/empty"] = {COMMIT: {"README.md": b"old", ".gitattributes": b""}}
    push_folder(folder, open_repository("jo/empty"))
    assert hub.files("jo/empty") == contents(folder) | {".gitattributes": b""}


def _problem(action: Callable[[], object]) -> str:
    with pytest.raises(ExportError) as caught:
        action()
    (told,) = caught.value.problems
    assert "\n" not in told
    return told


def test_who_is_not_logged_in_is_told_before_anything_is_made(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, run_command: Any
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_nobody")
    assert "does not accept the token" in _problem(lambda: open_repository("jo/small"))
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no token"))
    (tmp_path / "run").mkdir()
    code, _, err = run_command("export", tmp_path / "run", "--push", "jo/small")
    assert code == 2
    assert "--push jo/small: nobody is logged in to the model hub; run 'hf auth login'" in err
    assert os.listdir(tmp_path / "run") == []


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other/small", "the token may not write there; name a repository of your own"),
        ("jo/sm all", "is not a repository's name; write OWNER/NAME"),
        ("jo/broken", "the model hub answered 500"),
    ],
)
def test_what_the_hub_does_not_take_is_one_sentence(
    hub: Hub, folder: Path, name: str, words: str
) -> None:
    hub.statuses["jo/broken"] = (500, "")
    told = _problem(lambda: push_folder(folder, open_repository(name)))
    assert told.startswith(f"--push {name}: ")
    assert words in told


def test_a_card_that_the_hub_refuses_is_told_before_weights_are_sent(
    hub: Hub, folder: Path
) -> None:
    text = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "README.md").write_text(text.replace("mit", "my own"), encoding="utf-8")
    told = _problem(lambda: push_folder(folder, open_repository("jo/small")))
    assert 'does not take it: Invalid metadata in README.md. - "license" must be one of' in told
    assert told.endswith(f"the checkpoint is in {folder}")
    assert hub.sent == []


def test_a_repository_that_changed_meanwhile_is_not_written_over(hub: Hub, folder: Path) -> None:
    push_folder(folder, open_repository("jo/small"))
    before = open_repository("jo/small")
    (folder / "new.txt").write_text("x", encoding="utf-8")
    push_folder(folder, before)
    (folder / "new.txt").write_text("y", encoding="utf-8")
    assert "was changed meanwhile" in _problem(lambda: push_folder(folder, before))


def test_a_hub_that_is_off_or_away_is_told(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    assert "can't be reached (Connect" in _problem(lambda: open_repository("jo/small"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "switched off; unset HF_HUB_OFFLINE" in _problem(lambda: open_repository("jo/small"))
