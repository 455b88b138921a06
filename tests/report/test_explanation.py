"""What each layer is worth, from a record: numbers by hand, and where they are shown."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from recorded_runs import Sketch, random_scores, record_of, write_lines

from gptailor.core.changes import changes_of
from gptailor.core.metrics import aggregate
from gptailor.core.objective import Objective
from gptailor.core.trial import Evaluation
from gptailor.record.entries import ExplainedEntry
from gptailor.record.run_record import RunRecord, read_run
from gptailor.report import write_report
from gptailor.report.explanation import Explanation, explanation, explanation_grid

SKETCH = Sketch(n_layers=6, remove=2, variants=("math", "code"), n_trials=4)


@pytest.fixture(scope="module")
def explained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder, all changes of its result scored but one, which failed."""
    folder = tmp_path_factory.mktemp("explained") / "run"
    write_lines(folder, lines := record_of(SKETCH))
    run = read_run(folder)
    assert run.result is not None
    rng = np.random.default_rng(5)
    for number, change in enumerate(changes_of(run.result, SKETCH.members, 6)):
        done = Evaluation(random_scores(SKETCH, 0.6, 50, rng), None, 0.5, 100)
        if number == 1:
            done = Evaluation(None, "not finite", 0.5, 100)
        lines.append(ExplainedEntry.of(run.result.digest, change, done).to_plain())
    other = ExplainedEntry.model_validate(lines[-1]).model_copy(update={"result": "f" * 16})
    write_lines(folder, [*lines, other.to_plain()])
    return folder


@pytest.fixture(scope="module")
def both(explained: Path) -> tuple[RunRecord, Explanation]:
    run = read_run(explained)
    found = explanation(run, n_resamples=200)
    assert found is not None
    return run, found


def test_a_difference_is_the_mean_loss_less_that_of_the_result(
    both: tuple[RunRecord, Explanation],
) -> None:
    run, found = both
    assert run.result is not None
    assert len(found.changes) == len(changes_of(run.result, SKETCH.members, 6)) - 1
    base, result = (run.test_scores[name].tasks for name in ("base", "result"))
    for entry, loss, bits in zip(
        found.changes,
        found.columns["loss"],
        found.columns["capitals gold_bits_per_byte"],
        strict=True,
    ):
        assert entry.scores is not None
        gap, own = 0.0, entry.scores.tasks
        for task, metric in SKETCH.metrics.items():
            ours, theirs, unit = (
                aggregate(metric, s[task][metric].values, s[task][metric].weights)
                for s in (own, result, base)
            )
            gap += (ours - theirs) / unit * (-1 if metric == "acc" else 1) / 3
        assert loss.alone.value == pytest.approx(gap)
        assert loss.together.low < loss.alone.low <= loss.alone.high < loss.together.high
        ours, theirs = (s["capitals"]["gold_bits_per_byte"].values for s in (own, result))
        assert bits.alone.value == pytest.approx(np.mean(ours) - np.mean(theirs))


def test_of_the_domains_only_the_worst_enters_the_proxy_loss(explained: Path) -> None:
    run = read_run(explained)
    goals = tuple(replace(goal, worst=goal.metric == "acc") for goal in run.goals)
    header = run.header.model_copy(update={"goals": goals})
    found = explanation(replace(run, header=header), n_resamples=200)
    assert found is not None
    base, result = run.test_scores["base"], run.test_scores["result"]
    objective = Objective(goals, base)
    for entry, loss in zip(found.changes, found.columns["proxy loss"], strict=True):
        assert entry.scores is not None
        gap = objective.difference(entry.scores, result, proxy=True)[0]
        assert loss.alone.value == pytest.approx(gap)


def test_the_table_has_a_row_a_layer_and_the_page_shows_it(
    both: tuple[RunRecord, Explanation], explained: Path
) -> None:
    run, found = both
    grid = explanation_grid(run, found, "loss")
    assert grid.head == ("layer", "from base", "from math", "from code", "dropped, or\nput back")
    assert [row[0].split("\n")[0] for row in grid.rows] == [str(n) for n in range(6)]
    cut = [row for row in grid.rows if row[0].endswith("\ncut")]
    assert len(cut) == 2
    assert all(row[1:4] == ("", "", "") and row[4] for row in cut)
    assert found.totals == ("loss", "proxy loss")
    assert set(found.totals) | set(found.of_tasks) == found.columns.keys()
    text = write_report(explained).read_text(encoding="utf-8")
    assert "What each layer is worth" in text
    titles = [explanation_grid(run, found, column).title for column in found.columns]
    assert all(f"<h4>{title[0].upper()}" in text or f"<h4>{title}" in text for title in titles)
    assert "not finite" in text


def test_a_study_that_explained_nothing_says_nothing(make_run: Callable[..., Path]) -> None:
    folder = make_run(n_trials=4)
    assert explanation(read_run(folder)) is None
    assert "What each layer is worth" not in write_report(folder).read_text(encoding="utf-8")
