"""Merging coefficients are fitted before a search, which starts from them; a stop loses nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from studies import PLAN, FormulaPool, run_study

from gptailor.core.tailoring import Tailoring
from gptailor.record.entries import SlopeEntry
from gptailor.study.coefficients import fit_coefficients, with_coefficients

VARIANTS = PLAN.members[1:]
BEST = np.linspace(-0.4, 1.2, PLAN.n_layers * len(VARIANTS)).reshape(PLAN.n_layers, -1)
N_STEPS = 60


class Killed(Exception):
    """Stands for a kill."""


class Bowl:
    """A loss that is least at `BEST`, and its slopes; killed at a step, if one is given."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.kill_at, self.steps, self.losses = kill_at, list[int](), list[float]()

    def __call__(self, tailoring: Tailoring, step: int) -> SlopeEntry:
        if step == self.kill_at:
            raise Killed
        self.steps.append(step)
        gap = coefficients(tailoring) - BEST
        slopes = tuple(map(tuple, (2 * gap).tolist()))
        self.losses.append(float((gap**2).sum()))
        return SlopeEntry(
            step=step, loss=self.losses[-1], slopes=slopes, seconds=0.5, layer_tokens=7
        )


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
    fitted = fit_coefficients(bowl, VARIANTS, n_layers=PLAN.n_layers, n_steps=N_STEPS)
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


def asked(folder: Path) -> list[object]:
    """All that a study recorded of slopes and proposals."""
    lines = map(json.loads, (folder / "record.jsonl").read_text().splitlines())
    return [line for line in lines if line["kind"] in ("slopes", "asked")]


def test_a_time_limit_makes_fewer_steps_and_their_rate_falls_all_the_same() -> None:
    bowl, n_layers = Bowl(), PLAN.n_layers
    short = fit_coefficients(bowl, VARIANTS, n_layers=n_layers, n_steps=N_STEPS, timeout_s=10.2)
    assert len(bowl.steps) == 20  # of half a second each
    assert fit_coefficients(Bowl(), VARIANTS, n_layers=n_layers, n_steps=20) == short


def test_a_search_that_began_keeps_its_start(tmp_path: Path) -> None:
    fitted, bare = tmp_path / "fitted", tmp_path / "bare"
    run_study(fitted, FormulaPool(), slopes=Bowl(), n_steps=N_STEPS)
    run_study(fitted, FormulaPool(), slopes=Bowl(kill_at=0), n_steps=2 * N_STEPS)
    run_study(bare, FormulaPool())
    run_study(bare, FormulaPool(), slopes=Bowl(kill_at=0), n_steps=N_STEPS)
    assert not any("slopes" in str(line) for line in asked(bare))


def test_a_search_starts_from_what_was_fitted(tmp_path: Path) -> None:
    study, _ = run_study(tmp_path, FormulaPool(), slopes=Bowl(), n_steps=N_STEPS)
    whole = [trial for trial in study.trials if len(trial.tailoring.layers) == PLAN.n_layers]
    assert coefficients(whole[0].tailoring) == pytest.approx(BEST, abs=0.1)
