"""Malformed records end in one sentence with file and line, and are left as they are."""

import copy
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from records import SOUND, bytes_of

from gptailor.errors import UserError
from gptailor.record.run_record import read_run

GONE = object()


@pytest.fixture
def sound_job(pico_family: Any, tmp_path: Path) -> Path:
    """A sound tailor.yaml with a task of ten questions."""
    rows = [{"query": f"what is {n}?", "choices": ["a", "b"], "gold": n % 2} for n in range(10)]
    (tmp_path / "quiz.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    task = {
        "task": "quiz",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": "quiz.jsonl"}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "query",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
    }
    (tmp_path / "quiz.yaml").write_text(json.dumps(task))
    config = {
        "family": {"base": str(pico_family.base), "dtype": "float32"},
        "remove": 2,
        "tasks": [{"name": "./quiz.yaml", "metric": "acc"}],
    }
    path = tmp_path / "tailor.yaml"
    path.write_text(json.dumps(config))
    return path


# line, place in it, what is put there, what is told
CASES: list[tuple[int, str, Any, str]] = [
    (1, "kind", "trial", "a record begins with a header"),
    (1, "kind", GONE, "line 1: damaged"),
    (1, "format", "gptailor-record/2", "its format is 'gptailor-record/2'"),
    (1, "format", GONE, "its format is None"),
    (1, "format", 1, "its format is 1"),
    (1, "created", 5, "created"),
    (1, "config", [], "config"),
    (1, "versions", "2.9", "versions"),
    (1, "versions.torch", 2.9, "versions.torch"),
    (1, "machine", None, "machine"),
    (1, "seed", "zero", "seed"),
    (1, "seed", None, "seed"),
    (1, "family", GONE, "family"),
    (1, "family", "llama", "family"),
    (1, "family.members", [], "family.members"),
    (1, "family.members", GONE, "family.members"),
    (1, "family.members.0", 1, "family.members.0"),
    (1, "family.n_layers", 0, "family.n_layers"),
    (1, "family.n_layers", "four", "family.n_layers"),
    (1, "family.n_layers", GONE, "family.n_layers"),
    (1, "family.digests", [], "family.digests"),
    (1, "family.paths", GONE, "family.paths"),
    (1, "config.family", GONE, "config.family"),
    (1, "config.family.dtype", None, "config.family.dtype"),
    (1, "config.engine", GONE, "config.engine"),
    (1, "n_kept", 0, "n_kept"),
    (1, "n_kept", "one", "n_kept"),
    (1, "n_kept", GONE, "n_kept"),
    (1, "goals", [], "goals"),
    (1, "goals", GONE, "goals"),
    (1, "goals.0.task", GONE, "goals.0.task"),
    (1, "goals.0.metric", "rouge", "'rouge' of task 'quiz' is not a metric"),
    (1, "goals.0.weight", 0, "goals.0.weight"),
    (1, "goals.0.weight", -1.0, "goals.0.weight"),
    (1, "rungs", "2", "rungs"),
    (1, "rungs", ["few"], "rungs.0"),
    (1, "tasks", [], "tasks"),
    (1, "tasks.quiz", 3, "tasks.quiz"),
    (1, "tasks.quiz.search", -1, "tasks.quiz.search"),
    (1, "tasks.quiz.digest", GONE, "tasks.quiz.digest"),
    (1, "tasks.quiz.chance", {"test": [1.5]}, "tasks.quiz.chance.test.0"),
    (1, "tasks.quiz.chance", [0.5], "tasks.quiz.chance"),
    (2, "member", GONE, "must have a member or the number of a trial"),
    (2, "member", 1, "member"),
    (2, "scores", GONE, "must have scores or a failure"),
    (2, "scores", {}, "lack acc of task 'quiz'"),
    (2, "scores", [1], "scores"),
    (2, "scores.quiz", {}, "lack acc of task 'quiz'"),
    (2, "scores.quiz.acc", 0.5, "scores.quiz.acc"),
    (2, "scores.quiz.acc.values", [], "scores.quiz.acc.values"),
    (2, "scores.quiz.acc.values", GONE, "scores.quiz.acc.values"),
    (2, "scores.quiz.acc.values.0", "right", "scores.quiz.acc.values.0"),
    (2, "scores.quiz.acc.values.0", None, "scores.quiz.acc.values.0"),
    (2, "scores.quiz.acc.values.0", float("nan"), "scores.quiz.acc.values.0"),
    (2, "scores.quiz.acc.values.0", float("inf"), "scores.quiz.acc.values.0"),
    (2, "scores.quiz.acc.weights.0", -1, "scores.quiz.acc.weights.0"),
    (2, "scores.quiz.acc.values.0", 1e308, "scores.quiz.acc.values.0"),
    (2, "scores.quiz.acc.weights", [1.0], "2 values have 1 weights"),
    (2, "scores.quiz.acc.weights", [0.0, 0.0], "all weights are 0"),
    (3, "proposals", GONE, "proposals"),
    (3, "proposals", 5, "proposals"),
    (3, "proposals.0", "base:0", "proposals.0"),
    (3, "proposals.0.number", GONE, "proposals.0.number"),
    (3, "proposals.0.number", -1, "proposals.0.number"),
    (3, "proposals.0.number", "first", "proposals.0.number"),
    (3, "proposals.0.number", 7, "trial 0 has an outcome, but was never asked"),
    (3, "proposals.0.n_examples", "all", "proposals.0.n_examples"),
    (3, "proposals.0.n_examples", GONE, "proposals.0.n_examples"),
    (3, "proposals.0.tailoring", "base", "proposals.0.tailoring"),
    (3, "proposals.0.tailoring", {"format": "gptailor/1"}, "proposals.0.tailoring: layers"),
    (3, "proposals.0.tailoring.format", "gptailor/9", "proposals.0.tailoring: format"),
    (3, "proposals.0.tailoring.layers", [], "proposals.0.tailoring: layers"),
    (3, "proposals.0.tailoring.layers.0", "base:9", "layers[0]: base:9 does not exist"),
    (3, "proposals.0.tailoring.layers.0", "chat:0", "layers[0]: "),
    (3, "proposals.0.tailoring.layers.0", 7, "proposals.0.tailoring: layers[0]"),
    (3, "proposals.0.tailoring.layers.2.merge", "magic", "proposals.0.tailoring: layers[2]"),
    (3, "proposals.0.tailoring.layers.2.sources", [], "proposals.0.tailoring: layers[2]"),
    (3, "proposals.0.tailoring.head", "math:1", "proposals.0.tailoring: head"),
    (3, "proposals.0.tailoring.run", "rm -rf", "proposals.0.tailoring: "),
    (4, "number", GONE, "number"),
    (4, "number", 9, "trial 9 has an outcome, but was never asked"),
    (4, "number", 1.5, "number"),
    (4, "scores", GONE, "must have scores or a failure"),
    (4, "failure", "also", "must have scores or a failure"),
    (4, "seconds", "soon", "seconds"),
    (4, "seconds", -1, "seconds"),
    (4, "layer_tokens", -5, "layer_tokens"),
    (4, "elapsed", float("inf"), "elapsed"),
    (4, "scores.quiz.acc.values", "all", "scores.quiz.acc.values"),
    (5, "number", 0, "trial 0 has two outcomes"),
    (5, "failure", GONE, "must have scores or a failure"),
    (5, "failure", 7, "failure"),
    (6, "elapsed", "long", "elapsed"),
    (6, "time", 12, "time"),
    (7, "dropped_bytes", -1, "dropped_bytes"),
    (7, "dropped_bytes", "some", "dropped_bytes"),
    (8, "number", 5, "trial 5 was never evaluated"),
    (8, "number", "best", "number"),
    (8, "scores", {"other": {}}, "lack acc of task 'quiz'"),
    (9, "number", GONE, "number"),
    (9, "number", 1, "the chosen trial 1 was never scored"),
    (9, "number", 8, "the chosen trial 8 was never scored"),
    (9, "n_tried", -1, "n_tried"),
    (10, "number", GONE, "must have a member or the number of a trial"),
    (10, "scores", GONE, "must have scores or a failure"),
    (10, "scores.quiz.acc.values", [], "scores.quiz.acc.values"),
    (11, "name", GONE, "name"),
    (11, "tailoring", GONE, "must have a tailoring or a failure"),
    (11, "failure", "also", "must have a tailoring or a failure"),
    (11, "tailoring.layers.0", "base:9", "layers[0]: base:9 does not exist"),
    (11, "alone_layer_tokens", -1, "alone_layer_tokens"),
]
# whole lines: which one, the bytes put there, what is told
LINES: list[tuple[int, bytes, str]] = [
    (1, b"{", "line 1: damaged"),
    (1, b"\xff\xfe", "line 1: damaged"),
    (4, b"", "line 4: damaged"),
    (4, b"null", "line 4: damaged"),
    (4, b"[]", "line 4: damaged"),
    (4, b"7", "line 4: damaged"),
    (4, b'"trial"', "line 4: damaged"),
    (4, b'{"number": 0}', "line 4: damaged"),
    (4, b'{"kind": "trial", "number": 0', "line 4: damaged"),
    (4, b"[" * 100_000, "line 4: damaged"),
    (4, b"kind: trial", "line 4: damaged"),
    (4, b"\x00" * 50, "line 4: damaged"),
    (4, b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.", "line 4: damaged"),
]


def put(lines: list[dict[str, Any]], line: int, place: str, value: Any) -> None:
    *way, last = [int(step) if step.isdigit() else step for step in place.split(".")]
    item: Any = lines[line - 1]
    for step in way:
        item = item[step]
    if value is GONE:
        del item[last]
    else:
        item[last] = value


def spoilt(line: int, place: str, value: Any) -> bytes:
    lines = copy.deepcopy(SOUND)
    put(lines, line, place, value)
    return bytes_of(lines)


def replaced(line: int, content: bytes) -> bytes:
    lines = bytes_of(SOUND).split(b"\n")
    lines[line - 1] = content
    return b"\n".join(lines)


PARAMS = [
    *(
        pytest.param(spoilt(line, place, value), told, id=f"{line}-{place}-{index}")
        for index, (line, place, value, told) in enumerate(CASES)
    ),
    *(
        pytest.param(replaced(line, content), told, id=f"{line}-line-{index}")
        for index, (line, content, told) in enumerate(LINES)
    ),
]


def test_the_sound_record_is_sound(tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_bytes(bytes_of(SOUND))
    run = read_run(tmp_path)
    assert len(run.trials) == 2
    assert run.chosen is not None


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("content", "told"), PARAMS)
@pytest.mark.parametrize("verb", ["report", "search", "export"])
def test_each_fault_is_a_sentence_with_file_and_line_and_nothing_is_written(
    content: bytes,
    told: str,
    verb: str,
    tmp_path: Path,
    run_command: Callable[..., tuple[int, str, str]],
) -> None:
    run, config = tmp_path / "my run", tmp_path / "tailor.yaml"
    run.mkdir()
    record = run / "record.jsonl"
    record.write_bytes(content)
    config.write_text("{family: {base: ./b}, remove: 1, tasks: [{name: ./q.yaml, metric: acc}]}")
    words = {
        "report": ["report", run],
        "search": ["search", config, "--out", run],
        "export": ["export", run, "-o", tmp_path / "out"],
    }[verb]
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    (sentence,) = err.splitlines()
    assert sentence.startswith(f"error: {record}")
    assert told in sentence
    assert len(sentence) < 600
    assert sorted(tmp_path.iterdir()) == [run, config]
    assert [path.name for path in run.iterdir()] == ["record.jsonl"]
    assert record.read_bytes() == content


@given(data=st.data())
@settings(
    max_examples=4 * settings.default.max_examples,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_mutated_record_is_read_or_its_fault_is_told(data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(bytes_of(SOUND))
    for _ in range(data.draw(st.integers(1, 3))):
        start = data.draw(st.integers(0, len(content)))
        stop = min(len(content), start + data.draw(st.integers(0, 20)))
        piece = st.binary(max_size=6) | st.sampled_from(
            [
                b"null",
                b"[]",
                b"{}",
                b"-1",
                b"1e999",
                b"NaN",
                b'"',
                b"\n",
                b"\n\n",
                b"[[[[",
                b"9" * 5000,
            ]
        )
        content[start:stop] = data.draw(piece)
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "record.jsonl").write_bytes(content)
    try:
        read_run(tmp_path / "run")
    except UserError as error:
        told = error.problems
    else:
        return
    assert told
    assert all(sentence.startswith(str(tmp_path)) for sentence in told)


@pytest.mark.parametrize("target", ["pipe", "/dev/zero", "folder"])
def test_a_page_is_not_written_over_what_is_no_file(
    target: str, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    (tmp_path / "record.jsonl").write_bytes(bytes_of(SOUND))
    out = tmp_path / "out"
    if target == "pipe":
        os.mkfifo(out)
    elif target == "folder":
        out.mkdir()
    else:
        out.symlink_to(target)
    code, told, err = run_command("report", tmp_path, "-o", out)
    assert (code, told) == (2, "")
    assert err.startswith(f"error: {out}: is ")
    assert len(err.splitlines()) == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("name", ["record.jsonl", ".lock"])
@pytest.mark.parametrize("verb", ["report", "search"])
def test_a_pipe_in_a_run_is_not_waited_for(
    verb: str, name: str, sound_job: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    run = sound_job.parent / "run"
    run.mkdir()
    os.mkfifo(run / name)
    words = ["report", run] if verb == "report" else ["search", sound_job, "--out", run]
    code, out, err = run_command(*words)
    assert (code, out) == (2, "")
    assert f"{run / 'record.jsonl'}: " in err if name == "record.jsonl" else str(run) in err
    assert [path.name for path in run.iterdir()] == [name]
