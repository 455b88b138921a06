"""``gptailor evaluate``: lm-eval on unseen examples; base, variants and result side by side."""

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gptailor.cli.console import AsJson, errors, path_argument, path_option, screen
from gptailor.errors import ConfigError

if TYPE_CHECKING:
    from gptailor.core.score_table import MeanRow, ScoreRow, ScoreTable
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
    from gptailor.app.settings import recorded_config
    from gptailor.config import load_config
    from gptailor.core.metrics import METRICS
    from gptailor.core.score_table import score_table
    from gptailor.core.tailoring import Tailoring
    from gptailor.record.run_record import read_run

    if run is None and config is None:
        raise ConfigError("evaluate: name the run with --run, or the config with --config")
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model}: has no config.json; name a folder that `export` made")
    record = None if run is None else read_run(run, with_evaluation=False)
    loaded = load_config(config or Path()) if record is None or config else recorded_config(record)
    unloaded = [task.metric for task in loaded.tasks if task.metric not in METRICS.names]
    if unloaded:  # named by the record alone, which must not import anything
        raise ConfigError(
            f"evaluate: the metric {unloaded[0]!r} is imported only where tailor.yaml names it; "
            "add --config tailor.yaml"
        )
    if all(task.metric == "divergence" for task in loaded.tasks):
        raise ConfigError("evaluate: every task asks for a divergence, which lm-eval can't tell")
    tailoring = None if record is None else Tailoring.load(model / "tailoring.yaml")
    errors.print("loading the family and the tasks ...", style="dim")
    from gptailor.app.header import refuse_changes  # slow: problems come first
    from gptailor.app.inputs import load_members, max_length_of, open_tasks
    from gptailor.evaluation.side_by_side import evaluate_side_by_side, save_evaluation

    family = load_members(loaded)
    tasks = open_tasks(loaded, family)
    if record is not None:
        refuse_changes(record, family, tasks)
    models = evaluate_side_by_side(
        family,
        tasks,
        model,
        max_length=max_length_of(family, loaded.engine.max_length),
        batch_size=batch_size,
        on_model=lambda name: errors.print(f"evaluating {name} ...", style="dim"),
    )
    metrics = {name: task.metric for name, task in zip(tasks, loaded.tasks, strict=True)}
    chances = {name: splits.test.chance for name, splits in tasks.items()}
    table = score_table({each.name: each.scores for each in models}, metrics, chances=chances)
    if as_json:
        typer.echo(json.dumps(_plain(table, models), allow_nan=False))
    else:
        screen.print(_drawn(table))
        screen.print(
            "the metric and its 95 % bootstrap interval, on examples that the search never saw; "
            "below, the shares that are kept of the base's score and of the best whole member's, "
            "and of what they score above chance, with their intervals (paired)"
        )
    if record is not None and tailoring is not None:
        if record.chosen_trial is not None and tailoring == record.chosen_trial.tailoring:
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
    drawn = Table("task", *table.models, box=SIMPLE_HEAD, show_lines=True)
    for task in table.tasks:
        cells = [_cell(table.row(model, task.task)) for model in table.models]
        chance = "" if task.chance is None else f"\nchance {task.chance:.3f}"
        drawn.add_row(f"{task.task}\n{task.metric}\non {task.n_examples}{chance}", *cells)
    drawn.add_row("mean kept", *("\n".join(_shares(mean)) for mean in table.means.values()))
    return drawn


def _cell(row: "ScoreRow | None") -> str:
    if row is None:
        return ""
    score = row.score
    value = format(score.value, ".3f") if math.isfinite(score.value) else "too large"
    low, high = (
        format(end, ".2f") if math.isfinite(end) else "no limit" for end in (score.low, score.high)
    )
    return "\n".join([value, f"{low}-{high}", *_shares(row)])


def _shares(row: "ScoreRow | MeanRow") -> list[str]:
    """The shares of other models' scores, a line each and one for its interval."""
    from gptailor.report.words import share_lines

    others = [share for share in (row.of_base, row.of_best) if share and share.member != row.model]
    return [line for lines in share_lines(*others) for line in lines if line]
