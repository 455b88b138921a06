"""What a killed writer left is deleted by the next one; what is being written is not."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import pytest

from gptailor.files.atomic import move_over, temporary_folder, write_atomically

KILLED = """
import os, signal, sys
from pathlib import Path
from gptailor.files import atomic
atomic.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
atomic.write_atomically(Path(sys.argv[1]), "new")
"""


def test_a_writer_that_was_killed_leaves_the_old_file_and_the_next_one_cleans_up(
    tmp_path: Path,
) -> None:
    path = tmp_path / "report.html"
    write_atomically(path, "old")
    done = subprocess.run([sys.executable, "-c", KILLED, path], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2
    write_atomically(path, "newest")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"report.html": "newest"}


def test_only_unlocked_temporary_folders_are_deleted(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / ".gptailor-tmp.link").symlink_to(tmp_path / "mine")
    (tmp_path / ".gptailor-tmp.file").touch()
    with temporary_folder(tmp_path) as held:
        (held / "file").touch()
        (tmp_path / ".gptailor-tmp.left" / "deep").mkdir(parents=True)
        with temporary_folder(tmp_path) as other:
            assert (held / "file").exists()
            assert other != held
        kept = {held.name, ".gptailor-tmp.link", ".gptailor-tmp.file", "mine"}
        assert {path.name for path in tmp_path.iterdir()} == kept
    assert not held.exists()


def test_a_folder_that_is_deleted_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Path] = []
    mkdtemp = tempfile.mkdtemp

    def make(**arguments: str) -> str:
        made.append(Path(mkdtemp(**arguments)))
        if len(made) == 1:
            made[0].rmdir()  # as another writer would, between making and locking
        return str(made[-1])

    monkeypatch.setattr(tempfile, "mkdtemp", make)
    with temporary_folder(tmp_path) as folder:
        assert folder == made[1]
        assert folder.is_dir()


def test_writers_at_the_same_time_never_mix(tmp_path: Path) -> None:
    path, texts = tmp_path / "best.yaml", [letter * 200_000 for letter in "abcd"]
    writers = [threading.Thread(target=write_atomically, args=(path, text)) for text in texts]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert path.read_text() in texts
    assert [one.name for one in tmp_path.iterdir()] == ["best.yaml"]


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_takes_the_place_of_another(
    exchange: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchange:
        monkeypatch.setattr("gptailor.files.atomic._exchanged", lambda *_: False)
    for name in ("new", "target"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    move_over(tmp_path / "new", tmp_path / "target")
    found = {path.parent.name: path.read_text() for path in tmp_path.glob("*/file")}
    assert found == {"target": "new", "new": "target"}
    assert len(list(tmp_path.iterdir())) == 2


def test_the_rights_of_a_file_are_those_of_the_umask(tmp_path: Path) -> None:
    write_atomically(tmp_path / "ours", "x")
    (tmp_path / "plain").write_text("x")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "plain").st_mode
