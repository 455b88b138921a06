"""Merging coefficients are fitted on search examples before a search, where there is a way to."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gptailor as gt
from gptailor.app.assemble import assemble
from gptailor.app.ladder import after, at_depth
from gptailor.config import load_config
from gptailor.record.entries import SlopeEntry
from gptailor.study.coefficients import fitted_before, with_coefficients

Job = Callable[..., Path]
BUDGET = {"max_trials": 12, "layer_tokens": 2_000_000, "n_examples": [2, 6], "finalists": 2}


def n_steps(config: Path) -> int:
    return assemble(load_config(config)).plan.n_steps


def test_slopes_are_differences_of_the_loss(job: Job) -> None:
    assembly = assemble(load_config(job()))
    members, n_layers = assembly.family.members[1:], assembly.plan.n_layers
    middle = np.linspace(-0.3, 0.9, n_layers * len(members)).reshape(n_layers, -1)
    found = np.array(assembly.slopes(with_coefficients(middle, members), 1).slopes)
    rng = np.random.default_rng(0)
    for _ in range(4):
        step = 0.02 * rng.standard_normal(middle.shape).round(2)
        high, low = (
            assembly.slopes(with_coefficients(middle + sign * step, members), 1).loss
            for sign in (1, -1)
        )
        assert high - low == pytest.approx(2 * float((found * step).sum()), rel=0.05, abs=2e-5)


def test_a_search_fits_first_and_counts_it(
    job: Job, tmp_path: Path, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    config = job(budget=BUDGET, repair="refit", calibration={"n_tokens": 2000, "max_length": 32})
    code, out, _ = run_command("check", config)
    assert code == 0
    assert f"fit:      merging coefficients, in {n_steps(config)} steps by gradients" in out
    run = gt.search(config, tmp_path / "run")
    slopes = [entry for entry in run.record.entries if isinstance(entry, SlopeEntry)]
    assert len(slopes) == n_steps(config) >= 8
    spent = run.record.spent
    assert spent is not None
    fitted = sum(entry.layer_tokens for entry in slopes)
    assert 0.2 * BUDGET["layer_tokens"] < fitted < 0.4 * BUDGET["layer_tokens"]
    assert spent.layer_tokens > fitted + sum(t.evaluation.layer_tokens for t in run.trials)
    page = run.report().read_text(encoding="utf-8")
    assert f"were fitted in {len(slopes)} steps by gradients" in page
    starts = [trial for trial in run.trials if trial.proposal.origin == "nothing cut"]
    assert starts[0].tailoring.layers[0].method == "linear"


@pytest.mark.parametrize(
    "change",
    [
        {"merge": ["ties"]},
        {"merge": []},
        {"search": {"name": "random"}},
        {"budget": BUDGET | {"coefficients": 0}},
        {"budget": BUDGET | {"layer_tokens": 20_000}},
        {"budget": {"max_trials": 3, "n_examples": [2]}},
        {"budget": BUDGET | {"max_trials": 1}},
    ],
)
def test_without_a_way_or_the_means_nothing_is_fitted(job: Job, change: dict[str, Any]) -> None:
    assert n_steps(job(**{"budget": BUDGET} | change)) == 0


def test_goals_that_no_answer_decides_are_not_fitted(job: Job) -> None:
    task = {"name": "./tasks/texts.yaml", "metric": "divergence", "member": "math"}
    assert n_steps(job(budget=BUDGET, tasks=[task])) == 0


def test_a_model_of_huge_weights_gives_no_slopes_and_says_so(job: Job, pico_family: Any) -> None:
    variants = {"math": str(pico_family.variants["math"])}
    family = {"base": str(pico_family.base), "variants": variants, "dtype": "float16"}
    assembly = assemble(load_config(job(family=family)))
    huge = with_coefficients(np.full((assembly.plan.n_layers, 1), 3e5), ["math"])
    entry = assembly.slopes(huge, 0)
    assert entry.loss is None
    assert entry.failure == "the loss or a slope is not finite"
    assert entry.layer_tokens == assembly.slopes.layer_tokens  # they were run all the same
    assert not np.any(entry.slopes)


def test_all_searches_of_a_ladder_have_what_the_first_one_fitted(job: Job) -> None:
    config = job(remove="1..2", budget=BUDGET | {"layer_tokens": 20_000_000})
    first = at_depth(assemble(load_config(config)), 1)
    assert first.plan.n_steps == 100  # 35 % of the budget pays them, too
    flat = ((0.1,) * (len(first.plan.members) - 1),) * first.plan.n_layers
    steps = [SlopeEntry(step=n, n_steps=9, loss=1.0, slopes=flat, layer_tokens=5) for n in range(9)]
    second = at_depth(after(first, (), steps), 2)
    assert second.plan.n_steps == 0
    fitted = fitted_before(steps, first.plan.members[1:], n_layers=first.plan.n_layers)
    assert fitted is not None
    assert second.fitted is not None
    assert second.fitted.tailoring == fitted.tailoring
    assert second.fitted.layer_tokens == 0  # paid by the first search


def test_check_says_how_many_steps_a_time_limit_pays(
    job: Job, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    config = job(budget=BUDGET | {"layer_tokens": 20_000_000, "timeout_s": 0.01})
    assert n_steps(config) == 100
    _, out, _ = run_command("check", config)
    assert "in 1 step by gradients" in out
