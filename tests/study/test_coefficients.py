"""Merging coefficients are fitted before a search, which starts from them; a stop loses nothing."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from studies import PLAN, FormulaPool, run_study

from gptailor.core.tailoring import Tailoring
from gptailor.record.entries import SlopeEntry
from gptailor.study.coefficients import fit_coefficients, fitted_before, with_coefficients

VARIANTS = PLAN.members[1:]
BEST = np.linspace(-0.4, 1.2, PLAN.n_layers * len(VARIANTS)).reshape(PLAN.n_layers, -1)
N_STEPS = 60


class Killed(Exception):
    """Stands for a kill."""


class Bowl:
    """A loss that is least at `BEST`, and its slopes; killed at a step, if one is given."""

    def __init__(self, kill_at: int | None = None, *, fails: bool = False) -> None:
        self.fails = fails
        self.kill_at, self.steps, self.losses = kill_at, list[int](), list[float]()

    def __call__(self, tailoring: Tailoring, step: int) -> SlopeEntry:
        if step == self.kill_at:
            raise Killed
        self.steps.append(step)
        costs = {"n_steps": N_STEPS, "seconds": 0.5, "layer_tokens": 7}
        if self.fails:
            flat = ((0.0,) * len(VARIANTS),) * PLAN.n_layers
            return SlopeEntry(step=step, failure="out of memory", slopes=flat, **costs)
        gap = coefficients(tailoring) - BEST
        slopes = tuple(map(tuple, (2 * gap).tolist()))
        self.losses.append(float((gap**2).sum()))
        return SlopeEntry(step=step, loss=self.losses[-1], slopes=slopes, **costs)


def coefficients(tailoring: Tailoring) -> np.ndarray:
    """What a tailoring says: for each layer the weights of the variants."""
    rows = []
    for spec in tailoring.layers:
        weights = dict(zip(spec.sources, dict(spec.params)["weights"], strict=True))
        by_member = {source.member: weight for source, weight in weights.items()}
        rows.append([by_member[variant] for variant in VARIANTS])
    return np.array(rows)


def test_the_fit_finds_what_is_best() -> None:
    bowl = Bowl()
    fitted = fit_coefficients(bowl, VARIANTS, n_layers=PLAN.n_layers)
    assert fitted is not None
    assert fitted.layer_tokens == 7 * N_STEPS
    np.testing.assert_allclose(coefficients(fitted.tailoring), BEST, atol=0.1)
    assert bowl.losses[0] > 100 * bowl.losses[-1]


def test_the_base_has_the_rest() -> None:
    whole = with_coefficients(np.array([[0.25, -0.5], [0.0, 1.0]]), ["math", "code"])
    assert str(whole.layers[0]) == "linear(base:0, code:0, math:0, weights=[1.25, -0.5, 0.25])"
    assert str(whole.layers[1]) == "code:1"  # all of one member


@pytest.mark.parametrize("kill_at", [0, 1, 40, N_STEPS - 1])
def test_killed_and_resumed_equals_never_killed(tmp_path: Path, kill_at: int) -> None:
    _, chosen = run_study(tmp_path / "whole", FormulaPool(), slopes=Bowl(), n_steps=N_STEPS)
    with pytest.raises(Killed):
        run_study(tmp_path / "cut", FormulaPool(), slopes=Bowl(kill_at), n_steps=N_STEPS)
    again = Bowl()
    _, chosen_again = run_study(tmp_path / "cut", FormulaPool(), slopes=again, n_steps=N_STEPS)
    assert again.steps == list(range(kill_at, N_STEPS))
    assert chosen_again == chosen
    assert asked(tmp_path / "cut") == asked(tmp_path / "whole")


def asked(folder: Path) -> list[Any]:
    """All that a study recorded of slopes and proposals."""
    lines = map(json.loads, (folder / "record.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] in ("slopes", "asked")]


def test_a_time_limit_makes_fewer_steps(tmp_path: Path) -> None:
    # half a second each; the search has the rest of the time
    limit = {"n_steps": N_STEPS, "timeout_s": 100.0, "fit_part": 0.102}
    run_study(tmp_path, FormulaPool(), slopes=Bowl(), **limit)
    assert [line["n_steps"] for line in slopes_of(tmp_path)] == [20] * 20
    limit["timeout_s"] = 1000.0  # the fit has ended
    run_study(tmp_path, FormulaPool(), slopes=Bowl(kill_at=20), **limit)


def slopes_of(folder: Path) -> list[Any]:
    return [line for line in asked(folder) if line["kind"] == "slopes"]


def test_a_search_that_began_keeps_its_start(tmp_path: Path) -> None:
    fitted, bare = tmp_path / "fitted", tmp_path / "bare"
    run_study(fitted, FormulaPool(), slopes=Bowl(), n_steps=N_STEPS)
    for n_steps in (2 * N_STEPS, 0):
        run_study(fitted, FormulaPool(), slopes=Bowl(kill_at=0), n_steps=n_steps)
    run_study(bare, FormulaPool())
    run_study(bare, FormulaPool(), slopes=Bowl(kill_at=0), n_steps=N_STEPS)
    assert not slopes_of(bare)


@pytest.mark.parametrize("n_steps", [20, 100])
def test_a_fit_that_began_keeps_its_number_of_steps(tmp_path: Path, n_steps: int) -> None:
    with pytest.raises(Killed):
        run_study(tmp_path, FormulaPool(), slopes=Bowl(kill_at=30), n_steps=N_STEPS)
    run_study(tmp_path, FormulaPool(), slopes=Bowl(), n_steps=n_steps)
    assert len(slopes_of(tmp_path)) == N_STEPS


def test_a_fit_that_was_given_up_stays_so(tmp_path: Path) -> None:
    with pytest.raises(Killed):
        run_study(tmp_path, FormulaPool(), slopes=Bowl(kill_at=30), n_steps=N_STEPS)
    study, chosen = run_study(tmp_path, FormulaPool(), slopes=Bowl(), n_steps=0)
    assert all(spec.method != "linear" for t in study.trials for spec in t.tailoring.layers)
    assert run_study(tmp_path, FormulaPool(), slopes=Bowl(), n_steps=N_STEPS)[1] == chosen


def test_slopes_that_all_failed_are_no_fit(tmp_path: Path) -> None:
    study, _ = run_study(tmp_path, FormulaPool(), slopes=Bowl(fails=True), n_steps=N_STEPS)
    assert all(spec.method != "linear" for t in study.trials for spec in t.tailoring.layers)


def test_a_search_starts_from_what_was_fitted(tmp_path: Path) -> None:
    study, _ = run_study(tmp_path, FormulaPool(), slopes=Bowl(), n_steps=N_STEPS)
    whole = [trial for trial in study.trials if len(trial.tailoring.layers) == PLAN.n_layers]
    assert coefficients(whole[0].tailoring) == pytest.approx(BEST, abs=0.1)


def test_a_fit_that_fails_from_the_start_ends_early(tmp_path: Path) -> None:
    bowl = Bowl(fails=True)
    run_study(tmp_path, FormulaPool(), slopes=bowl, n_steps=N_STEPS)
    assert bowl.steps == [0, 1, 2]
    run_study(tmp_path, FormulaPool(), slopes=Bowl(kill_at=0), n_steps=N_STEPS)


def test_a_fit_is_read_from_its_steps_once_it_has_ended() -> None:
    bowl, entries = Bowl(), list[SlopeEntry]()

    def measure(tailoring: Tailoring, step: int) -> SlopeEntry:
        entries.append(bowl(tailoring, step))
        return entries[-1]

    fitted = fit_coefficients(measure, VARIANTS, n_layers=PLAN.n_layers)
    assert fitted_before(entries, VARIANTS, n_layers=PLAN.n_layers) == fitted
    assert fitted_before(entries[:-1], VARIANTS, n_layers=PLAN.n_layers) is None
    assert fitted_before([], VARIANTS, n_layers=PLAN.n_layers) is None
