"""What is predicted before a search comes about in it."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor.app.assemble import Assembly, assemble, open_study
from gptailor.config import load_config
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job as Wanted
from gptailor.core.trial import Scores
from gptailor.engine.batches import pack
from gptailor.forecast.costs import record_costs, record_forecast
from gptailor.forecast.dry_run import Step, Work, rehearse, work_of
from gptailor.forecast.forecast import forecast, in_time, seconds_of
from gptailor.forecast.speed import Speed
from gptailor.record.journal import Journal
from gptailor.record.run import read_run
from gptailor.report import write_report
from gptailor.workers.pool import WorkerSetup

pytestmark = pytest.mark.slow

Job = Callable[..., Path]
RANDOM = {"name": "random", "options": {"batch": 5}}


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
    steps = rehearse(assembly).steps
    entries = search(assembly, tmp_path / "run")
    for phase, kind in (("references", "reference"), ("search", "trial")):
        told = of(entries, kind)
        predicted = sum(step.work.layer_tokens for step in steps if step.phase == phase)
        actual = sum(entry["layer_tokens"] for entry in told)
        assert abs(predicted - actual) <= len(told) / 2  # each entry's share is rounded
    asked = [each["tailoring"] for entry in of(entries, "asked") for each in entry["proposals"]]
    searched = [each for step in steps if step.phase == "search" for each in step.tailorings]
    assert [each.to_plain() for each in searched] == asked
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
    work = work_of(assembly, jobs)
    done = assembly.evaluator.evaluate(jobs)
    assert abs(work.layer_tokens - sum(each.layer_tokens for each in done)) <= len(jobs) / 2
    merges = {spec for each in tailorings for spec in each.layers if spec.method is not None}
    assert work.n_merged == len(merges) > 0
    tasks = [parts.search for parts in assembly.tasks.values()]
    passages = [each for task in tasks for n in range(10) for each in task.passages(n)]
    alone = sum(len(batch.gather) for each in passages for batch in pack([each]))
    together = sum(len(batch.gather) for batch in pack(passages))
    assert work.target_tokens == len(jobs) * alone
    assert together <= alone <= 1.1 * together  # passages of one row share what begins alike
    assert work.input_tokens == assembly.evaluator.tokens("search", 0, 10) * len(
        {each.embedding for each in tailorings}
    )


def test_made_up_scores_of_more_examples_begin_with_those_of_fewer(job: Job) -> None:
    assembly = assemble(load_config(job()))
    seen: dict[Tailoring, Scores] = {}
    n_grown = 0
    for step in rehearse(assembly).steps:
        for each, scores in zip(step.tailorings, step.scores, strict=True):
            if step.phase != "search":
                continue
            assert scores is not None
            before = seen.setdefault(each, scores)
            n_grown += scores.n_examples > before.n_examples
            for task, metrics in before.tasks.items():
                for name, measured in metrics.items():
                    values = scores.tasks[task][name].values
                    assert values[: len(measured.values)] == measured.values
    assert n_grown


def test_a_search_that_runs_out_of_time_is_predicted_to() -> None:
    speed = Speed(layer_token=0.5, run=0.0, input_token=0.0, target_token=0.0, merged=0.0)
    steps = [
        Step("references", (), (), Work(100), 100),
        *(Step("search", (), (), Work(10), 10, asking=1.0) for _ in range(5)),  # 6 s each
        Step("selection", (), (), Work(20), 20),
    ]
    for timeout_s, n_left in ((None, 5), (0.1, 1), (6.1, 2), (17.9, 3), (100.0, 5)):
        left = in_time(steps, speed, timeout_s)
        assert [step.phase for step in left] == ["references", *["search"] * n_left, "selection"]


def test_the_forecast_of_check_is_that_of_a_search(job: Job, tmp_path: Path) -> None:
    config = load_config(job())
    expected = dataclasses.asdict(forecast(assemble(config)))
    (before,) = of(search(assemble(config), tmp_path), "forecast")
    for name in ("n_trials", "n_candidates", "layer_tokens", "shared", "merged_bytes"):
        assert before[name] == expected[name]


def test_workers_share_the_work_and_each_pays_for_what_it_shares_with_nobody(job: Job) -> None:
    assembly = assemble(load_config(job(search=RANDOM)))
    speed = Speed(layer_token=1.0, run=0.0, input_token=0.0, target_token=0.0, merged=0.0)
    alone, spread = rehearse(assembly), rehearse(assembly, 2)
    for one, two in zip(alone.steps, spread.steps, strict=True):
        assert (one.tailorings, one.scores, one.alone) == (two.tailorings, two.scores, two.alone)
        assert sum((group.layer_tokens for group in two.groups), 0) == two.work.layer_tokens
        assert one.work.layer_tokens <= two.work.layer_tokens <= two.alone
        assert len(two.groups) == min(2, len(two.tailorings))
        seconds = seconds_of(two, speed, WorkerSetup(2, "cpu", 1))
        assert seconds == pytest.approx(max(g.layer_tokens for g in two.groups) + two.asking)
        assert seconds_of(two, speed, None) == two.work.layer_tokens + two.asking
    step = dataclasses.replace(spread.steps[1], asking=0.0)
    crowded, roomy = (WorkerSetup(2, "cpu", 4, crowding=crowding) for crowding in (1.5, 1.0))
    assert seconds_of(step, speed, crowded) == 1.5 * seconds_of(step, speed, roomy)


def test_groups_are_taken_by_whoever_is_free_first() -> None:
    speed = Speed(layer_token=1.0, run=0.0, input_token=0.0, target_token=0.0, merged=0.0)
    step = Step("search", (), (), Work(19), 19, groups=tuple(map(Work, (9, 2, 3, 4, 1))))
    assert seconds_of(step, speed, WorkerSetup(2, "cpu", 1)) == 10.0  # 9 and 1; 2, 3 and 4
    assert seconds_of(step, speed, WorkerSetup(1, "cpu", 1)) == 19.0


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
