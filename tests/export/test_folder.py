"""What an export may replace, and what a error leaves behind; kills are tested end to end."""

import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.core.tailoring import Tailoring
from gptailor.errors import ExportError
from gptailor.export import export_checkpoint
from gptailor.export.folder import MANIFEST, replacing_folder


def reload(folder: Path) -> PreTrainedModel:
    model, told = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(told.values()), told
    return model.eval()


def beside(folder: Path) -> list[str]:
    """Everything in the folder that holds `folder`, hidden or not."""
    return sorted(path.name for path in folder.parent.iterdir())


def test_an_earlier_export_is_replaced(llama: Any, tmp_path: Path) -> None:
    export_checkpoint(
        llama.family, Tailoring.whole("code", 4), tmp_path / "out", shard_bytes=30_000
    )
    export_checkpoint(llama.family, Tailoring.whole("math", 6), tmp_path / "out")
    assert Tailoring.load(tmp_path / "out" / "tailoring.yaml") == Tailoring.whole("math", 6)
    assert not list((tmp_path / "out").glob("model-*"))
    assert beside(tmp_path / "out") == ["out"]
    assert len(reload(tmp_path / "out").model.layers) == 6


def test_an_empty_folder_is_filled(llama: Any, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


@pytest.mark.sampled(4)
@pytest.mark.parametrize("name", ["thesis.txt", "tailoring.yaml", ".hidden", "deep/er/file"])
def test_a_folder_with_other_files_is_refused_unless_told(
    name: str, llama: Any, tmp_path: Path
) -> None:
    theirs = tmp_path / "out" / name
    theirs.parent.mkdir(parents=True)
    theirs.write_text("precious")
    with pytest.raises(ExportError, match="not empty"):
        export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out")
    assert theirs.read_text() == "precious"
    assert beside(tmp_path / "out") == ["out"]
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out", overwrite=True)
    assert not theirs.exists() or name == "tailoring.yaml"
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_file_that_was_added_to_an_export_is_not_lost(llama: Any, tmp_path: Path) -> None:
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out")
    (tmp_path / "out" / "model.gguf").write_text("made with hours of work")
    with pytest.raises(ExportError, match="not empty"):
        export_checkpoint(llama.family, Tailoring.whole("math", 4), tmp_path / "out")
    assert (tmp_path / "out" / "model.gguf").is_file()


@pytest.mark.parametrize("manifest", ["[]", "not json", '{"format": "gptailor-export/1"}', "\0"])
def test_a_damaged_list_of_files_proves_nothing(manifest: str, llama: Any, tmp_path: Path) -> None:
    (tmp_path / "gptailor-export.json").write_text(manifest)
    with pytest.raises(ExportError, match="not empty"):
        export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path)


@pytest.mark.parametrize("inside", ["", "deep/er"])
def test_the_folder_one_stands_in_is_never_replaced(
    inside: str, llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "here"
    (target / inside).mkdir(parents=True)
    monkeypatch.chdir(target / inside)
    with pytest.raises(ExportError, match="can't replace"):
        export_checkpoint(llama.family, Tailoring.whole("math", 3), target, overwrite=True)
    assert target.is_dir()


def test_a_folder_that_is_gone_need_not_be_spared(
    llama: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_a_members_own_folder_is_never_replaced(llama: Any) -> None:
    source = Path(llama.family.paths["math"])
    for target in (source, source.parent):
        with pytest.raises(ExportError, match="which this export is made from"):
            export_checkpoint(llama.family, Tailoring.whole("math", 3), target, overwrite=True)
    assert (source / "model.safetensors").is_file()


def test_a_link_to_a_folder_is_followed(llama: Any, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "link")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "config.json").is_file()


def test_a_file_in_the_way_is_told(llama: Any, tmp_path: Path) -> None:
    (tmp_path / "out").write_text("precious")
    for overwrite in (False, True):
        with pytest.raises(ExportError, match="is a file"):
            export_checkpoint(
                llama.family, Tailoring.whole("math", 3), tmp_path / "out", overwrite=overwrite
            )
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize("inside", ["out", "deep/er/out"])
def test_a_parent_that_is_a_file_is_told(inside: str, llama: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(ExportError, match="can't be written"):
        export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "file" / inside)
    assert beside(tmp_path / "out") == ["file"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b"], ids=["long", "nul"])
def test_a_name_that_no_folder_can_have_is_told(name: str, llama: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError):
        export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "new" / name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sampled(3)
@pytest.mark.parametrize("n_bytes", [100, 8_000, 100_000], ids=["config", "tokenizer", "weights"])
def test_a_disk_that_fills_up_leaves_the_old_export(
    n_bytes: int, llama: Any, tmp_path: Path, files_of_at_most: Callable[..., Any]
) -> None:
    target = tmp_path / "new" / "out"
    with files_of_at_most(n_bytes), pytest.raises(ExportError, match="can't be written"):
        export_checkpoint(llama.family, Tailoring.whole("math", 3), target)
    assert list(tmp_path.iterdir()) == []
    export_checkpoint(llama.family, Tailoring.whole("math", 3), target)
    before = {path.name: path.read_bytes() for path in target.iterdir()}
    with files_of_at_most(n_bytes), pytest.raises(ExportError, match="can't be written"):
        export_checkpoint(llama.family, Tailoring.whole("code", 4), target)
    assert {path.name: path.read_bytes() for path in target.iterdir()} == before
    assert beside(target) == ["out"]


def test_everybody_may_read_what_the_umask_allows(llama: Any, tmp_path: Path) -> None:
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out")
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain.txt").write_text("x")
    rights = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").iterdir()}
    assert rights == {stat.S_IMODE((tmp_path / "plain.txt").stat().st_mode)}
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_export_left_is_swept_away(llama: Any, tmp_path: Path) -> None:
    left = tmp_path / ".gptailor-tmp.killed"
    (left / "deep").mkdir(parents=True)
    (left / "model.safetensors").write_text("half")
    export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "out")
    assert beside(tmp_path / "out") == ["out"]


def test_an_export_that_is_under_way_is_left_alone(llama: Any, tmp_path: Path) -> None:
    export_checkpoint(llama.family, Tailoring.whole("code", 3), tmp_path / "out")
    with replacing_folder(tmp_path / "out", overwrite=False) as under_way:
        (under_way / "file").write_text("x")
        export_checkpoint(llama.family, Tailoring.whole("math", 3), tmp_path / "other")
        assert (under_way / "file").is_file()
        assert Tailoring.load(tmp_path / "out" / "tailoring.yaml") == Tailoring.whole("code", 3)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["file", MANIFEST]
    assert beside(tmp_path / "out") == ["other", "out"]
