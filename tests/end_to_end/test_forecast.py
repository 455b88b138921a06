"""The costs of a search are about what was predicted before it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor.app.assemble import Assembly, assemble, open_study
from gptailor.app.costs import record_costs, record_forecast
from gptailor.config import load_config
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job as Wanted
from gptailor.core.trial import Scores, Trial
from gptailor.engine import Work
from gptailor.engine.batches import pack
from gptailor.engine.streams import Streams
from gptailor.forecast.dry_run import CountingPool, dry_run
from gptailor.forecast.speed import Speed, fitted
from gptailor.record.journal import Journal
from gptailor.record.run_record import read_run
from gptailor.report import write_report
from gptailor.workers.grouping import divided
from gptailor.workers.pool import WorkerSetup

pytestmark = pytest.mark.slow

Job = Callable[..., Path]
RANDOM = {"name": "random", "options": {"batch": 5}}
A_TOKEN_A_SECOND = Speed(layer_token=1.0, run=0.0, input_token=0.0, target_token=0.0, merged=0.0)


def dry(
    assembly: Assembly, speed: Speed = A_TOKEN_A_SECOND, setup: WorkerSetup | None = None
) -> tuple[tuple[Trial, ...], CountingPool]:
    """The trials of a study run without models, and the pool that counted its work."""
    pool = CountingPool(assembly.evaluator, speed, setup=setup)
    return dry_run(assembly.plan, assembly.searcher, pool), pool


def search(assembly: Assembly, folder: Path) -> list[dict[str, Any]]:
    """What ``gptailor search`` does once everything is loaded; the record's entries."""
    with Journal(folder) as journal:
        study = open_study(assembly, journal, on_progress=lambda _: None)
        record_forecast(journal, assembly)
        study.run()
        record_costs(journal, assembly)
        return [entry.to_plain() for entry in journal.entries]


def of(entries: list[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    return [entry for entry in entries if entry["kind"] == kind]


def test_a_searcher_that_does_not_look_at_scores_costs_exactly_what_was_predicted(
    job: Job, tmp_path: Path
) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    trials, pool = dry(assembly)
    entries = search(assembly, tmp_path / "run")
    for phase, kind in (("references", "reference"), ("search", "trial")):
        told = of(entries, kind)
        predicted = pool.work[phase].layer_tokens
        actual = sum(entry["layer_tokens"] for entry in told)
        assert abs(predicted - actual) <= len(told) / 2  # each entry's share is rounded
    asked = [each["tailoring"] for entry in of(entries, "asked") for each in entry["proposals"]]
    assert [trial.tailoring.to_plain() for trial in trials] == asked
    (before,), (after,) = of(entries, "forecast"), of(entries, "spent")
    assert (before["n_trials"], before["n_candidates"]) == (after["n_trials"], 24)


def test_an_evolution_costs_about_what_was_predicted(job: Job, tmp_path: Path) -> None:
    assembly = assemble(load_config(job(budget={"max_trials": 60, "n_examples": [4, 12]})))
    entries = search(assembly, tmp_path / "run")
    (before,), (after,) = of(entries, "forecast"), of(entries, "spent")
    assert before["n_trials"] == after["n_trials"] == 60
    assert before["n_candidates"] == pytest.approx(after["n_candidates"], rel=0.3)
    assert before["layer_tokens"] == pytest.approx(after["layer_tokens"], rel=0.3)
    assert after["seconds"] / 5 < before["seconds"] < after["seconds"] * 5  # others may be at work
    asked = {each["number"] for entry in of(entries, "asked") for each in entry["proposals"]}
    scored = [*of(entries, "reference"), *of(entries, "finalist"), *of(entries, "test")]
    told = [*of(entries, "trial"), *scored]
    assert len(asked) == after["n_trials"]
    assert after["layer_tokens"] == sum(entry["layer_tokens"] for entry in told)
    elapsed = max(entry["elapsed"] for entry in of(entries, "trial"))
    others = sum(entry["seconds"] for entry in scored)
    assert after["seconds"] == pytest.approx(elapsed + others, abs=0.01)


def test_going_on_adds_up_and_a_finished_study_is_left_alone(job: Job, tmp_path: Path) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    whole = search(assembly, tmp_path / "whole")
    record = (tmp_path / "whole" / "record.jsonl").read_bytes()
    search(assembly, tmp_path / "whole")
    assert (tmp_path / "whole" / "record.jsonl").read_bytes() == record
    cut = record.index(b'"kind":"trial","number":9')
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "record.jsonl").write_bytes(record[: record.rindex(b"\n", 0, cut) + 1])
    resumed = search(assembly, tmp_path / "cut")
    assert of(resumed, "forecast") == of(whole, "forecast")  # the first start's
    (spent,) = of(resumed, "spent")
    assert spent["n_trials"] == of(whole, "spent")[0]["n_trials"]
    before = max(entry["elapsed"] for entry in of(whole, "trial") if entry["number"] < 9)
    assert spent["seconds"] > before


def test_the_report_shows_what_was_predicted_beside_what_came(job: Job, tmp_path: Path) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    search(assembly, tmp_path)
    run = read_run(tmp_path)
    assert run.forecast is not None
    assert run.spent is not None
    assert run.spent.n_trials == 24
    page = write_report(tmp_path).read_text(encoding="utf-8")
    assert "what it cost" in page
    assert "peak memory" in page
    lines = (tmp_path / "record.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    old = [line for line in lines if json.loads(line)["kind"] not in ("forecast", "spent")]
    (tmp_path / "record.jsonl").write_text("".join(old), encoding="utf-8")
    assert read_run(tmp_path).forecast is None
    assert "what it cost" not in write_report(tmp_path).read_text(encoding="utf-8")


def test_work_is_counted_as_the_engine_does_it(job: Job) -> None:
    assembly = assemble(load_config(job()))
    rng = np.random.default_rng(0)
    tailorings = [assembly.space.random(rng) for _ in range(4)]
    tailorings += [Tailoring.whole("base", 6), tailorings[0]]
    jobs = [Wanted(each, 10) for each in tailorings]
    work = assembly.evaluator.count(jobs)
    done = assembly.evaluator.evaluate(jobs)
    assert abs(work.layer_tokens - sum(each.layer_tokens for each in done)) <= len(jobs) / 2
    merges = {spec for each in tailorings for spec in each.layers if spec.method is not None}
    assert set(work.merges) == merges != set()
    tasks = [parts.search for parts in assembly.tasks.values()]
    passages = [each for task in tasks for n in range(10) for each in task.passages(n)]
    least = sum(len(batch.gather) for batch in pack(passages))
    most = sum(len(batch.gather) for each in passages for batch in pack([each]))
    assert len(jobs) * least <= work.target_tokens <= len(jobs) * most  # rungs part the batches
    assert work.input_tokens == assembly.evaluator.tokens("search", 0, 10) * len(
        {each.embedding for each in tailorings}
    )


def test_made_up_scores_of_more_examples_begin_with_those_of_fewer(job: Job) -> None:
    assembly = assemble(load_config(job()))
    seen: dict[Tailoring, Scores] = {}
    n_grown = 0
    for trial in dry(assembly)[0]:
        assert trial.scores is not None
        before = seen.setdefault(trial.tailoring, trial.scores)
        n_grown += trial.scores.n_examples > before.n_examples
        for task, metrics in before.tasks.items():
            for name, measured in metrics.items():
                values = trial.scores.tasks[task][name].values
                assert values[: len(measured.values)] == measured.values
    assert n_grown


def test_a_search_that_runs_out_of_time_is_predicted_to(job: Job) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    trials, pool = dry(assembly)
    searched = pool.work["search"].layer_tokens
    for share, least, most in ((0.001, 5, 5), (0.5, 6, len(trials) - 1), (2.0, 24, 24)):
        plan = dataclasses.replace(assembly.plan, timeout_s=share * searched)
        short = CountingPool(assembly.evaluator, A_TOKEN_A_SECOND)
        begun = dry_run(plan, assembly.searcher, short)
        assert least <= len(begun) <= most
        assert begun == trials[: len(begun)]
        assert short.work["references"] == pool.work["references"]
        assert short.work["test"].layer_tokens > 0


def test_no_time_for_a_candidate_is_no_error_of_the_forecast(job: Job) -> None:
    """Evolution first tries whole models, and none of those can be chosen."""
    assembly = assemble(load_config(job(budget={"max_trials": 60, "n_examples": [4, 12]})))
    plan = dataclasses.replace(assembly.plan, timeout_s=1e-9)
    pool = CountingPool(assembly.evaluator, A_TOKEN_A_SECOND)
    trials = dry_run(plan, assembly.searcher, pool)
    assert {len(trial.tailoring.layers) for trial in trials} == {assembly.plan.n_layers}
    assert pool.work.keys() == {"references", "search"}


def test_the_forecast_of_check_is_that_of_a_search(job: Job, tmp_path: Path) -> None:
    config = load_config(job())
    expected = assemble(config).forecast().to_plain()
    (before,) = of(search(assemble(config), tmp_path), "forecast")
    for name in ("n_trials", "n_candidates", "layer_tokens", "shared", "merged_bytes"):
        assert before[name] == expected[name]


def test_workers_share_the_work_and_each_pays_for_what_it_shares_with_nobody(job: Job) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    (trials, alone), (same, spread) = dry(assembly), dry(assembly, setup=WorkerSetup(2, "cpu", 1))
    assert [trial.proposal for trial in same] == [trial.proposal for trial in trials]
    for phase, one in alone.work.items():
        two = spread.work[phase]
        assert one.layer_tokens <= two.layer_tokens <= two.unshared == one.unshared
    total = sum(alone.work.values(), Work()).layer_tokens
    assert alone.seconds == pytest.approx(total, rel=0.01)  # and what searchers need to ask
    assert total / 2 < spread.seconds < total


def test_a_group_goes_to_the_worker_that_is_free_first(job: Job) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    rng = np.random.default_rng(0)
    jobs = [Wanted(assembly.space.random(rng), n) for n in (12, 12, 4, 4, 12, 4, 4)]
    groups = divided(jobs, 2, group_size=1)
    costs = [assembly.evaluator.count([jobs[i] for i in group]).layer_tokens for group in groups]
    free = [0, 0]
    for cost in costs:
        free[free.index(min(free))] += cost
    for crowding in (1.0, 1.5):
        setup = WorkerSetup(2, "cpu", 4, crowding=crowding)
        pool = CountingPool(assembly.evaluator, A_TOKEN_A_SECOND, setup=setup, group_size=1)
        assert len(pool.evaluate(jobs)) == len(jobs)
        assert pool.seconds == pytest.approx(crowding * max(free), abs=1)


def test_the_speed_of_each_kind_of_work_is_fitted_and_never_negative() -> None:
    rng = np.random.default_rng(0)
    units = rng.uniform(1.0, 1e4, (6, 4))
    seconds = np.array([2e-5, 1e-4, 3e-6, 5e-5])
    times = np.tile(units @ seconds, (3, 1))
    np.testing.assert_allclose(fitted(units, times), seconds, rtol=1e-6)
    disturbed = units @ np.array([[2e-5, -1e-5, 3e-6, 5e-5]]).T
    assert (fitted(units, disturbed.T) >= 0).all()


def test_neither_a_disturbed_round_nor_a_disturbed_job_changes_the_speed() -> None:
    rng = np.random.default_rng(0)
    units = rng.uniform(1.0, 1e4, (6, 4))
    seconds = np.array([2e-5, 1e-4, 3e-6, 5e-5])
    times = np.tile(units @ seconds, (3, 1))
    times[1] *= 100
    times[[0, 2], [3, 4]] *= 100
    np.testing.assert_allclose(fitted(units, times), seconds, rtol=1e-6)


def test_kinds_of_work_that_always_go_together_cost_no_more_than_the_jobs_measured() -> None:
    rng = np.random.default_rng(0)
    units = rng.uniform(1.0, 1e4, (3, 4))
    units[:, 1] = units[:, 0] / 1000
    noisy = units @ np.array([2e-5, 1e-2, 3e-6, 5e-5]) * rng.uniform(0.5, 2.0, (3, 3))
    assert (units * fitted(units, noisy) <= 4 * noisy.max(axis=0)[:, None]).all()


def test_check_tells_what_workers_cost_and_on_which_assumption(
    job: Job, run_command: Callable[..., tuple[int, str, str]]
) -> None:
    workers = {"name": "local", "options": {"n_workers": 2}}
    code, out, _ = run_command("check", job(workers=workers))
    assert code == 0
    memory, time = out.splitlines()[-2:]
    assert memory.endswith(" MiB in all for each of 2 workers, and the weights once more here")
    assert " with 2 workers as fast as this machine with 1 threads each" in time
    assert time.endswith("; their start comes on top")


def test_fits_are_not_counted_as_work_that_sharing_adds(job: Job) -> None:
    config = load_config(job(repair="refit", calibration={"n_tokens": 4096}))
    assert 0 < assemble(config).forecast().shared < 1


def test_memory_is_forecast_for_the_streams_that_refits_keep(job: Job) -> None:
    assembly = assemble(load_config(job(repair="refit", calibration={"n_tokens": 4096})))
    streams = Streams(assembly.evaluator.engine, assembly.repairs.calibration.rows)
    whole = [Tailoring.whole(name, assembly.plan.n_layers) for name in assembly.family.members]
    kept = [state for one in whole for states in streams.along(one) for state in states]
    pool = CountingPool(assembly.evaluator, A_TOKEN_A_SECOND, fits=assembly.repairs.fit_tokens)
    dry_run(assembly.plan, assembly.searcher, pool)
    assert pool.fit_bytes > 0.9 * sum(state.nbytes for state in kept)  # padding aside
