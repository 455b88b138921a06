"""``gptailor evaluate``: lm-eval on unseen examples; base, variants and result side by side."""

import itertools
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Column, Table

from gptailor.cli.console import AsJson, errors, path_argument, path_option, screen
from gptailor.cli.faults import one_sentence
from gptailor.core.layer_spec import BASE
from gptailor.core.statistics import RESULT
from gptailor.errors import ConfigError

if TYPE_CHECKING:
    from gptailor.core.score_table import ScoreRow, ScoreTable, Share
    from gptailor.core.statistics import Estimate
    from gptailor.record.evaluation_file import EvaluatedModel

__all__ = ["command"]


def command(
    model: Annotated[Path, path_argument("The exported folder.")],
    run: Annotated[
        Path | None, path_option("The run it came from; its report picks the scores up.")
    ] = None,
    config: Annotated[
        Path | None, path_option("The tailor.yaml, if there is no run, or a metric of your own.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in one forward.")] = 16,
    as_json: AsJson = False,
) -> None:
    """Score a finished model, its base and the variants on examples the search never saw."""
    from gptailor.app.settings import config_of_run
    from gptailor.core.score_table import score_table
    from gptailor.core.tailoring import Tailoring
    from gptailor.record.run_record import read_run

    if run is None and config is None:
        raise ConfigError("evaluate: name the run with --run, or the config with --config")
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model}: has no config.json; name a folder that `export` made")
    record = None if run is None else read_run(run, with_evaluation=False)
    loaded = config_of_run(record, config, "evaluate")
    if all(task.metric == "divergence" for task in loaded.tasks):
        raise ConfigError("evaluate: every task asks for a divergence, which lm-eval can't tell")
    tailoring = None
    if record is not None and not (model / "healing.json").is_file():
        tailoring = Tailoring.load(model / "tailoring.yaml")
    errors.print("loading the family and the tasks ...", style="dim")
    from gptailor.app.header import refuse_changes  # slow: problems come first
    from gptailor.app.inputs import load_members, max_length_of, open_tasks
    from gptailor.evaluation.side_by_side import (
        evaluate_side_by_side,
        expected_work,
        save_evaluation,
    )
    from gptailor.study.plan import roughly

    family = load_members(loaded)
    tasks = open_tasks(loaded, family)
    if record is not None:
        refuse_changes(record, family, tasks)
    n_models, n_examples = 1 + len(family.members), sum(t.test.n_examples for t in tasks.values())
    turns = itertools.count(1)
    limits = {
        "max_length": max_length_of(family, loaded.engine.max_length),
        "batch_size": batch_size,
    }
    work, seconds = expected_work(family, tasks, **limits)
    written = ", and what they write" if any(t.test.writes for t in tasks.values()) else ""
    what = f"{n_models * work:,} layer-tokens, {roughly(n_models * seconds)}{written}"
    errors.print(f"expected: {n_models} models on {n_examples:,} examples, {what}", style="dim")

    def show(name: str) -> None:
        what = f"{name}, model {next(turns)} of {n_models}, on {n_examples:,} examples"
        errors.print(f"evaluating {what} ...", style="dim")

    with one_sentence(run, lambda: "evaluating"):
        models = evaluate_side_by_side(family, tasks, model, on_model=show, **limits)
    metrics = {name: splits.spec.metric for name, splits in tasks.items()}
    chances = {name: splits.test.chance for name, splits in tasks.items()}
    table = score_table({each.name: each.scores for each in models}, metrics, chances=chances)
    if as_json:
        typer.echo(json.dumps(_plain(table, models), allow_nan=False))
    else:
        screen.print(_drawn(table))
        screen.print(
            "the metric and its 95 % bootstrap interval, on examples that the search never saw; "
            "below, the share of the base's score that is kept, and the share of what the base "
            "scores above chance, with their intervals (paired); 'at chance': the member's own "
            "score can't be told from chance"
        )
    if record is not None:
        if tailoring is not None and tailoring == record.result:
            save_evaluation(record.folder, models, tailoring, chances=chances)
        else:
            errors.print(f"{model} is not the model that {run} chose; its scores are not saved")


def _plain(table: "ScoreTable", models: "list[EvaluatedModel]") -> list[dict[str, Any]]:
    """One row a task and model, and one a model for the mean over the tasks."""
    rows = []
    for model in models:
        rows += [row.to_plain() for row in table.rows if row.model == model.name]
        mean = table.means[model.name]
        rows.append(mean.to_plain() | {"parameters": model.parameters})
    return rows


def _drawn(table: "ScoreTable") -> Table:
    """A row a task; with a column for the shares of the best member, if it is not the base."""
    best = table.references[1:]
    heads = ["task", *table.models, *(f"{RESULT}\nof {name}" for name in best)]
    columns = [Column(head, overflow="fold") for head in heads]
    drawn = Table(*columns, box=SIMPLE_HEAD, show_lines=True, padding=(0, 1, 0, 0))
    for task in table.tasks:
        cells = [_cell(table.row(model, task.task)) for model in table.models]
        result = table.row(RESULT, task.task)
        cells += [_shares(None if result is None else result.of_best) for _ in best]
        chance = "" if task.chance is None else f"\nchance\n{task.chance:.3f}"
        drawn.add_row(f"{task.task}\n{task.metric}\non {task.n_examples}{chance}", *cells)
    means = table.means
    cells = ["" if name == BASE else _shares(mean.of_base) for name, mean in means.items()]
    drawn.add_row("mean kept", *cells, *(_shares(means[RESULT].of_best) for _ in best))
    return drawn


def _cell(row: "ScoreRow | None") -> str:
    if row is None:
        return ""
    score = _with_limits(row.score, ".3f", ".2f")
    if row.model == BASE:
        return score
    kept = _shares(row.of_base)
    if row.of_base is not None and row.retention is None:
        kept = "the base scored 0" if math.isfinite(row.score.value) else "share not known"
    return f"{score}\n{kept}"


def _shares(share: "Share | None") -> str:
    """The share of a member's score, and that above chance, each above its interval."""
    if share is None:
        return ""
    lines = [
        _with_limits(found, ".1%", ".0%") for found in (share.kept, share.above_chance) if found
    ]
    return "\n".join([*lines, *(["at chance"] if share.at_chance else [])])


def _with_limits(estimate: "Estimate", form: str, limits: str) -> str:
    value = format(estimate.value, form) if math.isfinite(estimate.value) else "too large"
    ends = (estimate.low, estimate.high)
    low, high = (format(end, limits) if math.isfinite(end) else "no limit" for end in ends)
    return f"{value}\n{low}-{high}"
