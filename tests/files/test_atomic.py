"""What a killed process left half written is swept away; what is being written is not."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from gptailor.files.atomic import hold_new, sweep
from gptailor.files.yaml import write_atomically

KILLED = """
import os, signal, sys
from pathlib import Path
from gptailor.files import yaml as yamlfile
yamlfile.os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
yamlfile.write_atomically(Path(sys.argv[1]), "new")
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


def test_only_what_nobody_holds_and_is_called_so_is_swept(tmp_path: Path) -> None:
    held, lock = hold_new(lambda: tempfile.mkdtemp(prefix=".half.", dir=tmp_path))
    (held / "file").touch()
    (tmp_path / ".half.left" / "deep").mkdir(parents=True)
    (tmp_path / ".half.file").touch()
    (tmp_path / ".half.link").symlink_to(tmp_path / "mine")
    (tmp_path / "mine").touch()
    sweep(tmp_path, ".half.")
    assert {p.name for p in tmp_path.iterdir()} == {held.name, ".half.link", "mine"}
    assert (held / "file").exists()
    os.close(lock)
    sweep(tmp_path, ".half.")
    assert not held.exists()


def test_what_is_swept_before_it_is_locked_is_made_again(tmp_path: Path) -> None:
    made: list[str] = []

    def make() -> str:
        made.append(tempfile.mkdtemp(dir=tmp_path))
        if len(made) == 1:
            Path(made[0]).rmdir()  # as a sweep between making and locking
        return made[-1]

    path, lock = hold_new(make)
    assert str(path) == made[1]
    assert path.is_dir()
    os.close(lock)
