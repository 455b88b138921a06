"""Reading a run's folder: whole, torn, unfinished, damaged."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gptailor.errors import RecordError
from gptailor.record.run_record import read_run

MakeRun = Callable[..., Path]


def lines_of(folder: Path) -> list[dict[str, Any]]:
    text = (folder / "record.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def rewrite(folder: Path, lines: list[dict[str, Any]]) -> None:
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "record.jsonl").write_text(text, encoding="utf-8")


def test_a_whole_record_is_read_as_it_was_written(make_run: MakeRun) -> None:
    folder = make_run(n_trials=12)
    run, lines = read_run(folder), lines_of(folder)
    told = {line["number"]: line for line in lines if line["kind"] == "trial"}
    assert [trial.number for trial in run.trials] == sorted(told)
    for trial in run.trials:
        line = told[trial.number]
        assert trial.failure == line.get("failure")
        if trial.scores is not None:
            assert trial.scores.to_plain() == line["scores"]
        assert run.elapsed[trial.number] == line["elapsed"]
    assert set(run.references) == {"base", "math", "code", "common"}
    assert run.chosen is not None
    assert run.chosen_trial is not None
    assert run.chosen_trial.number == run.chosen.number
    assert run.best_trial == run.chosen_trial
    assert run.chosen_trial in run.able
    assert {t.number for t in run.front} <= {t.number for t in run.able}
    assert run.evaluation is not None
    assert run.open_numbers == ()
    assert run.notes == ()


def test_a_torn_last_line_is_left_out_and_told(make_run: MakeRun) -> None:
    folder = make_run(ends=False, n_trials=5, failing=0)
    with (folder / "record.jsonl").open("r+", encoding="utf-8") as file:
        text = file.read()
        file.seek(0)
        file.truncate()
        file.write(text[: len(text) - 40])
    run = read_run(folder)
    assert [trial.number for trial in run.trials] == [0, 1, 2, 3]
    assert run.open_numbers == (4,)
    assert len(run.notes) == 1


def test_a_repaired_line_is_told(make_run: MakeRun) -> None:
    folder = make_run(ends=False, n_trials=2)
    rewrite(folder, [*lines_of(folder), {"kind": "truncated", "dropped_bytes": 17}])
    assert "17 bytes" in read_run(folder).notes[0]


def test_a_line_of_a_later_version_is_passed_over(make_run: MakeRun) -> None:
    folder = make_run(n_trials=3, ends=False)
    lines = lines_of(folder)
    lines[0]["weather"] = "fine"
    rewrite(folder, [*lines, {"kind": "weather", "is": "fine"}])
    assert len(read_run(folder).trials) == 3


def test_candidates_of_another_size_are_never_the_best(make_run: MakeRun) -> None:
    folder = make_run(n_trials=10, ends=False, failing=0)
    lines = lines_of(folder)
    asked = next(line for line in lines if line["kind"] == "asked")
    asked["proposals"][0]["tailoring"]["layers"].pop()
    asked["proposals"][0]["n_examples"] = 1000
    rewrite(folder, lines)
    run = read_run(folder)
    assert 0 not in {trial.number for trial in run.able}
    assert {trial.proposal.n_examples for trial in run.able} == {27}


def test_a_result_that_was_chosen_before_gives_way(make_run: MakeRun) -> None:
    folder = make_run(n_trials=20, failing=0)
    lines = lines_of(folder)
    first = next(line for line in lines if line["kind"] == "chosen")["number"]
    other = next(n for n in range(20) if n != first)
    result = next(line for line in lines if line["kind"] == "test" and "number" in line)
    lines.insert(lines.index(result), result | {"number": other})
    result["number"] = first
    lines.append({"kind": "test", "number": other, "scores": result["scores"]})
    rewrite(folder, lines)
    run = read_run(folder)
    assert run.test_scores["result"].to_plain() == result["scores"]


def test_scores_of_another_repair_of_the_chosen_trial_are_not_its_own(make_run: MakeRun) -> None:
    folder = make_run(n_trials=20, failing=0)
    chosen = read_run(folder).result
    assert chosen is not None
    lines = lines_of(folder)
    tests = [line for line in lines if line["kind"] == "test"]
    result = next(line for line in tests if "number" in line)
    base = next(line for line in tests if line.get("member") == "base")
    result["tailoring"] = chosen.digest
    lines.append(result | {"tailoring": "0" * 16, "scores": base["scores"]})
    rewrite(folder, lines)
    assert read_run(folder).test_scores["result"].to_plain() == result["scores"]


def test_a_folder_without_a_record_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no such folder"):
        read_run(tmp_path / "absent")
    with pytest.raises(RecordError, match=r"record\.jsonl: no such record"):
        read_run(tmp_path)
    (tmp_path / "record.jsonl").touch()
    with pytest.raises(RecordError, match="the record is empty"):
        read_run(tmp_path)
    for text, why in (
        ('{"kind": "hea', "the record is empty"),
        ("hello\n", "is no record of a run"),
    ):
        (tmp_path / "record.jsonl").write_text(text, encoding="utf-8")
        with pytest.raises(RecordError, match=why):
            read_run(tmp_path)


def header_only(lines: list[dict[str, Any]], **changes: Any) -> list[dict[str, Any]]:
    return [lines[0] | changes]


def first(lines: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    return next(line for line in lines if line["kind"] == kind)


def drop(lines: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    lines.remove(first(lines, kind))
    return lines


def alter(lines: list[dict[str, Any]], kind: str, **changes: Any) -> list[dict[str, Any]]:
    first(lines, kind).update(changes)
    return lines


def spoil_tailoring(lines: list[dict[str, Any]], layer: Any) -> list[dict[str, Any]]:
    first(lines, "asked")["proposals"][0]["tailoring"]["layers"][0] = layer
    return lines


def spoil_value(lines: list[dict[str, Any]], value: Any) -> list[dict[str, Any]]:
    first(lines, "reference")["scores"]["capitals"]["acc"]["values"][0] = value
    return lines


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda lines: lines[1:], "format is None"),
        (lambda lines: header_only(lines, format="gptailor-record/9"), "gptailor-record/9"),
        (lambda lines: header_only(lines, kind="trial"), "begins with a header, not with 'trial'"),
        (lambda lines: header_only(lines, goals=[]), "line 1: goals"),
        (lambda lines: header_only(lines, family={"members": ["base"]}), r"family\.paths"),
        (
            lambda lines: header_only(
                lines, goals=[{"task": "capitals", "metric": "rouge", "weight": 1.0}]
            ),
            "'rouge' of task 'capitals' is not a metric",
        ),
        (lambda lines: drop(lines, "asked"), "trial 0 has an outcome, but was never asked"),
        (lambda lines: alter(lines, "trial", scores=None), "must have scores or a failure"),
        (lambda lines: alter(lines, "trial", number=-1), "number: input should be greater"),
        (lambda lines: alter(lines, "trial", seconds="soon"), "seconds: input should be a valid"),
        (lambda lines: alter(lines, "reference", scores={}), "lack acc of task 'capitals'"),
        (
            lambda lines: alter(lines, "finalist", member=None, number=999),
            "999 was never evaluated",
        ),
        (lambda lines: alter(lines, "chosen", number=999), "999 was never scored"),
        (lambda lines: spoil_tailoring(lines, "maths:1"), "maths"),
        (lambda lines: spoil_tailoring(lines, "base:30"), "layers go from 0 to 29"),
        (lambda lines: spoil_tailoring(lines, 7), "neither 'member:layer' nor a merge"),
        (lambda lines: spoil_value(lines, float("nan")), "finite number"),
        (lambda lines: spoil_value(lines, "right"), "valid number"),
    ],
)
def test_a_damaged_record_is_refused_with_a_sentence(
    make_run: MakeRun, spoil: Callable[[list[dict[str, Any]]], list[dict[str, Any]]], told: str
) -> None:
    folder = make_run(n_trials=12, failing=0)
    rewrite(folder, spoil(lines_of(folder)))
    with pytest.raises(RecordError, match=told) as error:
        read_run(folder)
    assert "record.jsonl" in str(error.value)


def test_a_damaged_line_in_the_middle_is_refused(make_run: MakeRun) -> None:
    folder = make_run(n_trials=3)
    text = (folder / "record.jsonl").read_text(encoding="utf-8").splitlines()
    text[3] = text[3][:50]
    (folder / "record.jsonl").write_text("\n".join(text) + "\n", encoding="utf-8")
    with pytest.raises(RecordError, match="line 4"):
        read_run(folder)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "not usable as JSON"),
        ("[]", "format must be 'gptailor-evaluation/1', not None"),
        ('{"format": "gptailor-evaluation/2"}', "gptailor-evaluation/2"),
        ('{"format": "gptailor-evaluation/1"}', "backend: field required"),
        ("[" * 100_000, "not usable as JSON"),
    ],
)
def test_a_damaged_evaluation_is_refused(make_run: MakeRun, text: str, told: str) -> None:
    folder = make_run(n_trials=3)
    (folder / "evaluation.json").write_text(text, encoding="utf-8")
    with pytest.raises(RecordError, match=told) as error:
        read_run(folder)
    assert "evaluation.json" in str(error.value)


def test_a_pipe_in_an_evaluations_place_is_not_waited_for(make_run: MakeRun) -> None:
    folder = make_run(n_trials=3, evaluates=False)
    os.mkfifo(folder / "evaluation.json")
    with pytest.raises(RecordError, match=r"evaluation.json: is no plain file"):
        read_run(folder)
