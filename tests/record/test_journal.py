"""Who may write a record, and what becomes of it where it can't be written."""

import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import HEADER, FormulaPool, run_study

from gptailor.errors import RecordError
from gptailor.record.journal import Journal, read_record
from gptailor.study import Progress

FORK = multiprocessing.get_context("fork")
NOBODY = 65534


def hold(folder: Path, line: Connection) -> None:
    """Hold a record until told, or killed."""
    with Journal(folder):
        line.send("held")
        line.recv()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("ending", ["killed", "ended"])
def test_a_second_process_is_refused_and_the_lock_of_a_dead_one_is_not(
    tmp_path: Path, ending: str
) -> None:
    here, there = FORK.Pipe()
    holder = FORK.Process(target=hold, args=(tmp_path, there))
    holder.start()
    assert here.recv() == "held"
    with pytest.raises(RecordError, match=r"another process is running this study; wait for it"):
        Journal(tmp_path)
    if ending == "killed":
        holder.kill()
    else:
        here.send("end")
    holder.join()
    assert (tmp_path / ".lock").exists()  # it stays, and means nothing once nobody holds it
    with Journal(tmp_path) as journal:
        journal.append(HEADER)
    here.close()
    there.close()


@contextmanager
def no_rights() -> Iterator[Path]:
    """A folder of ours in which we may not write; whoever is root is nobody for the while."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        folder.chmod(0o755)
        (folder / "run").mkdir()
        (folder / "run" / ".lock").touch()
        (folder / "run" / "record.jsonl").write_text('{"kind":"header"}\n')
        for path in (*folder.rglob("*"), folder):
            path.chmod(0o555)
        root = os.geteuid() == 0
        if root:
            os.seteuid(NOBODY)
        try:
            yield folder
        finally:
            if root:
                os.seteuid(0)
            for path in (folder, *folder.rglob("*")):
                path.chmod(0o755)


def test_a_folder_or_a_record_that_may_not_be_written_is_told() -> None:
    with no_rights() as folder:
        for run in (folder / "new", folder / "run"):
            with pytest.raises(RecordError, match=r"can't be written: Permission denied; make it"):
                Journal(run)
        assert [path.name for path in folder.iterdir()] == ["run"]
        assert (folder / "run" / "record.jsonl").read_text() == '{"kind":"header"}\n'


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("file", "File exists|Not a directory"),
        ("file/run", "Not a directory"),
        ("odd record", "Is a directory"),
        ("odd lock", "Is a directory"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_place_that_can_hold_no_record_is_told(tmp_path: Path, place: str, told: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "odd record" / "record.jsonl").mkdir(parents=True)
    (tmp_path / "odd lock" / ".lock").mkdir(parents=True)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(RecordError, match=rf"can't be written: ({told})"):
        Journal(tmp_path / place)
    new = set(tmp_path.rglob("*")) - {*before, tmp_path / "odd record" / ".lock"}
    assert not new


@pytest.mark.parametrize("parts", [("record.jsonl",), ("run", "record.jsonl")])
def test_a_device_or_a_pipe_is_no_record(tmp_path: Path, parts: tuple[str, ...]) -> None:
    path = tmp_path.joinpath(*parts)
    path.parent.mkdir(exist_ok=True)
    if len(parts) == 1:
        path.symlink_to("/dev/zero")  # read without end
    else:
        os.mkfifo(path)  # waited for
    for read in (lambda: Journal(path.parent), lambda: read_record(path)):
        with pytest.raises(RecordError, match="is no plain file"):
            read()


@pytest.mark.parametrize("text", ["hello\n", "[1]\n", "notes", '{"a":1}\n'])
def test_a_file_of_somebody_else_is_not_taken_for_a_torn_record(tmp_path: Path, text: str) -> None:
    path = tmp_path / "record.jsonl"
    path.write_text(text)
    with pytest.raises(RecordError, match="is no record of gptailor's"):
        Journal(tmp_path)
    assert path.read_text() == text


@pytest.mark.parametrize("left", [b"", b"\0" * 50, b'{"ki', b'{"kind":"header","form\0\0', b"\n"])
def test_a_torn_header_begins_anew(tmp_path: Path, left: bytes) -> None:
    (tmp_path / "record.jsonl").write_bytes(left)
    with Journal(tmp_path) as journal:
        assert journal.header() is None
        journal.append(HEADER)
    assert read_record(tmp_path / "record.jsonl")[0][1] == HEADER


def removed(folder: Path) -> None:
    shutil.rmtree(folder)


def renamed(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))


def replaced(folder: Path) -> None:
    shutil.copy(folder / "record.jsonl", folder / "copy")
    (folder / "copy").replace(folder / "record.jsonl")


def shortened(folder: Path) -> None:
    os.truncate(folder / "record.jsonl", 30)


def written(folder: Path) -> None:
    with (folder / "record.jsonl").open("a") as file:
        file.write('{"kind":"note"}\n')


@pytest.mark.parametrize("change", [removed, renamed, replaced, shortened, written])
def test_a_study_stops_at_once_when_its_record_is_changed_underneath(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    folder, pool = tmp_path / "run", FormulaPool()

    def look(progress: Progress) -> None:
        if progress.last is not None and progress.last.number == 5:
            change(folder)

    with pytest.raises(
        RecordError, match=r"(?s)changed it while the study ran, so the study stops"
    ):
        run_study(folder, pool, look)
    assert sum(job.split == "search" for job in pool.jobs) < 3 + 30
    if change is not removed and change is not shortened:
        place = tmp_path / ("elsewhere" if change is renamed else "run")
        whole = (place / "record.jsonl").read_bytes()
        assert whole.endswith(b"\n")
        assert b'"number":5' in whole


def told_numbers(folder: Path) -> list[int]:
    lines = (folder / "record.jsonl").read_bytes().split(b"\n")
    assert lines[-1] == b""
    entries = [json.loads(line) for line in lines[:-1]]
    return [entry["number"] for entry in entries if entry["kind"] == "trial"]


@pytest.mark.sampled(4)
@pytest.mark.parametrize("seed", range(4))
def test_a_study_on_a_full_disk_stops_and_goes_on_when_there_is_room(
    files_of_at_most: Callable[..., Any],
    tmp_path: Path,
    seed: int,
) -> None:
    _, number = run_study(tmp_path / "roomy", FormulaPool())
    size = (tmp_path / "roomy" / "record.jsonl").stat().st_size
    room = int(np.random.default_rng(seed).integers(200, size))
    full = tmp_path / "full"
    with files_of_at_most(room), pytest.raises(RecordError, match="recorded is safe: make room"):
        run_study(full, FormulaPool())
    told = told_numbers(full)
    assert (full / "record.jsonl").stat().st_size <= room
    assert told == list(range(len(told)))
    again = FormulaPool()
    _, resumed = run_study(full, again)
    assert resumed == number
    assert told_numbers(full) == told_numbers(tmp_path / "roomy")
    searched = [job for job in again.jobs if job.split == "search"]
    assert len(searched) <= 3 + 30 - len(told)  # the members, and what was not told yet
