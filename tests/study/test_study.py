"""Killed and resumed equals never killed; failures are facts, not scores."""

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import HEADER, FormulaPool, run_study, score

from gptailor.core.objective import Goal
from gptailor.core.trial import Job, Measurement, Scores
from gptailor.errors import RecordError
from gptailor.record.journal import Journal
from gptailor.study import Progress

_TIMES = ("elapsed", "seconds", "time", "dropped_bytes")


def facts(folder: Path) -> list[dict[str, Any]]:
    """The record without times, and without the notes of having been stopped."""
    lines = (folder / "record.jsonl").read_text().splitlines()
    entries = [json.loads(line) for line in lines]
    kept = [entry for entry in entries if entry["kind"] not in ("resumed", "truncated")]
    return [{k: v for k, v in entry.items() if k not in _TIMES} for entry in kept]


def test_a_study_leaves_every_kind_of_fact(tmp_path: Path) -> None:
    study, number = run_study(tmp_path, FormulaPool())
    entries = facts(tmp_path)
    kinds = [entry["kind"] for entry in entries]
    wholes = {e["member"]: e["scores"]["which"]["acc"] for e in entries if "reference" in e["kind"]}
    n_scored = {member: len(scores["values"]) for member, scores in wholes.items()}
    assert n_scored == {"base": 9, "math": 3, "code": 3}
    assert kinds.count("trial") == 30
    assert kinds.count("test") == 4
    (chosen,) = (entry for entry in entries if entry["kind"] == "chosen")
    assert chosen["number"] == number
    sized = {t.tailoring for t in study.trials if len(t.tailoring.layers) == 4}
    assert chosen["n_tried"] == len(sized)
    finalists = {e["number"] for e in entries if e["kind"] == "finalist" and "number" in e}
    assert number in finalists


SEEDS = [
    *range(10),
    *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(10, 40)),
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_record_cut_anywhere_goes_on_as_if_nothing_had_happened(
    tmp_path: Path, seed: int
) -> None:
    """Whatever the instant of a kill, the disk holds a beginning of the record."""
    rng = np.random.default_rng(seed)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    _, number = run_study(whole, FormulaPool())
    record = (whole / "record.jsonl").read_bytes()
    first_line = record.index(b"\n") + 1
    cut.mkdir()
    (cut / "record.jsonl").write_bytes(record[: rng.integers(first_line, len(record))])
    study, resumed = run_study(cut, FormulaPool())
    assert resumed == number
    assert facts(cut) == facts(whole)
    assert [trial.number for trial in study.trials] == list(range(30))


def test_a_search_stops_when_its_layer_tokens_are_spent_also_when_resumed(tmp_path: Path) -> None:
    """A trial of `FormulaPool` takes 100 layer-tokens on any number of examples."""
    seen: list[Progress] = []
    study, number = run_study(tmp_path, FormulaPool(), seen.append, layer_tokens=2000)
    assert 16 <= len(study.trials) <= 20
    assert 0.8 <= seen[-1].share <= 1.0
    again = FormulaPool()
    resumed, same = run_study(tmp_path, again, layer_tokens=2000)
    assert (len(resumed.trials), same) == (len(study.trials), number)
    assert again.jobs == []


def test_what_was_scored_is_not_scored_again(tmp_path: Path) -> None:
    run_study(tmp_path, FormulaPool())
    again = FormulaPool()
    run_study(tmp_path, again)
    assert again.jobs == []


def test_going_from_few_to_more_examples_hands_the_known_scores_on(tmp_path: Path) -> None:
    pool = FormulaPool()
    run_study(tmp_path, pool)
    promoted = [job for job in pool.jobs if job.split == "search" and job.known is not None]
    assert promoted
    assert all(job.known.n_examples == 3 and job.n_examples == 9 for job in promoted)


def test_failed_trials_have_a_reason_and_no_score_and_are_never_chosen(tmp_path: Path) -> None:
    def fails(job: Job) -> str | None:
        bad = job.split == "search" and len(job.tailoring.layers) == 4
        return "out of memory" if bad and int(job.tailoring.digest, 16) % 3 == 0 else None

    study, number = run_study(tmp_path, FormulaPool(fails))
    failed = [trial for trial in study.trials if not trial.complete]
    assert failed
    assert all(trial.failure == "out of memory" and trial.scores is None for trial in failed)
    assert study.trials[number].complete


def test_a_study_whose_trials_all_fail_stops_and_says_why(tmp_path: Path) -> None:
    def fails(job: Job) -> str | None:
        return "out of memory" if len(job.tailoring.layers) == 4 else None

    with pytest.raises(RecordError, match=r"all failed.*out of memory"):
        run_study(tmp_path, FormulaPool(fails))


@pytest.mark.parametrize("n_trials", [1, 5])
def test_a_study_of_few_trials_that_all_fail_says_why(tmp_path: Path, n_trials: int) -> None:
    def fails(job: Job) -> str | None:
        return "out of memory" if len(job.tailoring.layers) < 6 else None

    with pytest.raises(RecordError, match=rf"all {n_trials} candidates failed.*: out of memory;"):
        run_study(tmp_path, FormulaPool(fails), max_trials=n_trials)


def test_a_study_whose_probes_all_fail_stops_too(tmp_path: Path) -> None:
    def fails(job: Job) -> str | None:
        return "out of memory" if len(job.tailoring.layers) < 6 else None

    pool = FormulaPool(fails)
    with pytest.raises(RecordError, match=r"the first \d+ candidates all failed"):
        run_study(tmp_path, pool, max_trials=1000)
    assert sum(len(job.tailoring.layers) < 6 for job in pool.jobs) <= 24


def test_a_base_that_cannot_be_scored_stops_the_study(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="base can't be scored: non-finite"):
        run_study(tmp_path, FormulaPool(lambda job: "non-finite"))


def test_a_score_too_large_for_a_number_is_a_failure(tmp_path: Path) -> None:
    def is_huge(job: Job) -> bool:
        return len(job.tailoring.layers) < 6 and int(job.tailoring.digest, 16) % 2 == 0

    def perplexed(job: Job) -> Scores:
        nats = (800.0 if is_huge(job) else 2.0,) * job.n_examples  # exp(800) is no number
        texts = {"word_perplexity": Measurement("word_perplexity", nats)}
        return Scores({**score(job).tasks, "texts": texts})

    goals = (Goal("which", "acc"), Goal("texts", "word_perplexity"))
    study, chosen = run_study(tmp_path, FormulaPool(scores=perplexed), goals=goals)
    failed = [trial for trial in study.trials if not trial.complete]
    assert 0 < len(failed) < len(study.trials)
    assert {trial.failure for trial in failed} == {
        "the word_perplexity of task 'texts' is too large for a number"
    }
    assert all(int(trial.tailoring.digest, 16) % 2 == 0 for trial in failed)
    assert study.trials[chosen].complete


def test_a_study_out_of_time_says_so_and_goes_on_with_the_same_record(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match=r"no candidate with 2 layers cut"):
        run_study(tmp_path, FormulaPool(), timeout_s=1e-9)
    before = len(facts(tmp_path))
    study, _ = run_study(tmp_path, FormulaPool())
    assert len(study.trials) == 30
    assert len(facts(tmp_path)) > before


def test_a_finalist_that_fails_on_the_selection_split_is_not_chosen(tmp_path: Path) -> None:
    _, best = run_study(tmp_path / "first", FormulaPool())
    entries = facts(tmp_path / "first")
    asked = {p["number"]: p for e in entries if e["kind"] == "asked" for p in e["proposals"]}

    def fails(job: Job) -> str | None:
        winner = job.tailoring.to_plain() == asked[best]["tailoring"]
        return "non-finite" if job.split == "selection" and winner else None

    _, number = run_study(tmp_path / "second", FormulaPool(fails))
    assert number != best
    failed = [e for e in facts(tmp_path / "second") if e["kind"] == "finalist" and "failure" in e]
    assert [entry["number"] for entry in failed] == [best]


def test_a_torn_header_is_taken_off_and_the_record_begins_anew(tmp_path: Path) -> None:
    (tmp_path / "record.jsonl").write_bytes(b'{"kind":"header","format":"gptailor-rec')
    run_study(tmp_path, FormulaPool())
    again = FormulaPool()
    run_study(tmp_path, again)
    assert again.jobs == []


def test_a_full_disk_stops_the_study_with_a_sentence_and_leaves_whole_lines(
    files_of_at_most: Callable[[int], AbstractContextManager[None]], tmp_path: Path
) -> None:
    def fill(journal: Journal) -> None:
        while True:
            journal.append(HEADER)

    with (
        files_of_at_most(4096),
        Journal(tmp_path) as journal,
        pytest.raises(RecordError, match="what was recorded is safe"),
    ):
        fill(journal)
    lines = (tmp_path / "record.jsonl").read_bytes().split(b"\n")
    assert lines[-1] == b""
    assert all(json.loads(line) for line in lines[:-1])


def test_a_record_of_another_search_is_refused(tmp_path: Path) -> None:
    run_study(tmp_path, FormulaPool())
    path = tmp_path / "record.jsonl"
    path.write_text(path.read_text().replace('"base:0"', '"math:0"'))
    with pytest.raises(RecordError, match="proposes another trial"):
        run_study(tmp_path, FormulaPool())


def test_a_damaged_line_in_the_middle_is_refused_by_its_number(tmp_path: Path) -> None:
    run_study(tmp_path, FormulaPool())
    path = tmp_path / "record.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[3] = lines[3][: len(lines[3]) // 2]
    path.write_bytes(b"\n".join(lines))
    with pytest.raises(RecordError, match="line 4: damaged"):
        run_study(tmp_path, FormulaPool())


def test_two_processes_can_not_hold_one_folder(tmp_path: Path) -> None:
    with Journal(tmp_path), pytest.raises(RecordError, match="another process"):
        Journal(tmp_path)
    Journal(tmp_path).close()  # the lock went with its holder
