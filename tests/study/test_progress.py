"""Progress says from the start how long the rest will take, and never absurdly."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from studies import FormulaPool, run_study

from gptailor.core.trial import Evaluation, Job
from gptailor.study import Progress
from gptailor.study.plan import roughly, time_left


def test_the_forecast_counts_at_the_start_and_the_pace_at_the_end() -> None:
    expected: dict[str, float | None] = {"expected_s": 100.0, "timeout_s": None}
    assert time_left(0.0, 0.0, **expected) == 100
    assert time_left(0.01, 20.0, **expected) == pytest.approx(
        118, abs=1
    )  # by the pace alone: 1,980
    assert time_left(0.9, 900.0, **expected) == pytest.approx(91)
    assert time_left(1.0, 900.0, **expected) == 0


def test_without_a_forecast_the_pace_counts_and_a_timeout_ends_it() -> None:
    assert time_left(0.0, 1.0, expected_s=None, timeout_s=9.0) is None
    assert time_left(0.25, 10.0, expected_s=None, timeout_s=None) == 30
    assert time_left(0.25, 10.0, expected_s=None, timeout_s=25.0) == 15
    assert (roughly(89.0), roughly(100.0)) == ("about 89 s", "about 2 min")


def test_a_group_that_is_evaluated_at_once_counts_as_a_whole(tmp_path: Path) -> None:
    """Its first trial is shown when all of it is done: the time is not that of one trial."""
    seen: list[Progress] = []
    pool = SlowPool()
    study, _ = run_study(tmp_path, pool, on_progress=seen.append, clock=lambda: pool.now)
    searched = [each for each in seen if each.phase == "search"]
    assert searched[0].last is None  # shown before anything is evaluated
    first = next(each for each in searched if each.last is not None)
    ends = searched[-1].elapsed
    assert len(study.trials) == 30
    assert first.left_s is not None
    assert first.left_s < 3 * ends


def test_a_study_that_goes_on_begins_with_the_trials_that_are_recorded(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run_study(whole, FormulaPool())
    lines = (whole / "record.jsonl").read_bytes().splitlines(keepends=True)
    trials = [place for place, line in enumerate(lines) if b'"kind":"trial"' in line]
    cut.mkdir()
    (cut / "record.jsonl").write_bytes(b"".join(lines[: trials[6] + 1]))
    seen: list[Progress] = []
    run_study(cut, FormulaPool(), on_progress=seen.append)
    counts = [each.n_trials for each in seen]
    assert counts[0] == 7
    assert counts == sorted(counts)
    assert counts[-1] == 30


class SlowPool(FormulaPool):
    """Takes 5 ms a candidate by a clock of its own, and returns a group when all of it is done."""

    now = 0.0  # seconds

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        self.now += 0.005 * len(jobs)
        return list(super().evaluate(jobs))
