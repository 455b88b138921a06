"""``gptailor evaluate``: lm-eval on unseen examples; base, variants and result side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.table import Table

from gptailor.cli.console import errors, named, screen
from gptailor.errors import ConfigError

__all__ = ["command"]


def command(
    model: Annotated[Path, typer.Argument(help="The exported folder.", callback=named)],
    run: Annotated[
        Path | None,
        typer.Option(help="The run it came from; its report picks the scores up.", callback=named),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            help="The tailor.yaml, if there is no run, or a metric of your own.", callback=named
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Sequences in one forward.")] = 16,
    as_json: Annotated[bool, typer.Option("--json", help="Print the rows as JSON.")] = False,
) -> None:
    """Score a finished model, its base and the variants on examples the search never saw."""
    from gptailor.app.selection import chosen_of, recorded_config, recorded_header
    from gptailor.config import load_config
    from gptailor.core.metrics import METRICS
    from gptailor.core.objective import Goal
    from gptailor.core.tailoring import Tailoring

    if run is None and config is None:
        raise ConfigError("evaluate: name the run with --run, or the config with --config")
    if not (model / "config.json").is_file():
        raise ConfigError(f"{model}: has no config.json; name a folder that `export` made")
    loaded = load_config(config) if config is not None else recorded_config(run or Path())
    unloaded = [task.metric for task in loaded.tasks if task.metric not in METRICS.names]
    if unloaded:  # named by the record alone, which must not import anything
        raise ConfigError(
            f"evaluate: the metric {unloaded[0]!r} is imported only where tailor.yaml names it; "
            "add --config tailor.yaml"
        )
    if all(task.metric == "divergence" for task in loaded.tasks):
        raise ConfigError("evaluate: every task asks for a divergence, which lm-eval can't tell")
    tailoring = None if run is None else Tailoring.load(model / "tailoring.yaml")
    errors.print("loading the family and the tasks ...", style="dim")
    from gptailor.app.assemble import (  # slow: problems come first
        load_members,
        max_length_of,
        open_tasks,
    )
    from gptailor.app.header import model_facts, task_digest
    from gptailor.evaluation.side_by_side import evaluate_side_by_side, save_evaluation, table
    from gptailor.record.compatibility import changed_model, changes

    family = load_members(loaded)
    tasks = open_tasks(loaded, family)
    if run is not None:
        digests = {name: task_digest(parts) for name, parts in tasks.items()}
        problems = changes(recorded_header(run), family.digests, digests, where=run)
        problems += changed_model(recorded_header(run), model_facts(family), run)
        if problems:
            raise ConfigError(problems)
    models = evaluate_side_by_side(
        family,
        tasks,
        model,
        max_length=max_length_of(loaded, family),
        batch_size=batch_size,
        on_model=lambda name: errors.print(f"evaluating {name} ...", style="dim"),
    )
    goals = [Goal(name, task.metric) for name, task in zip(tasks, loaded.tasks, strict=True)]
    rows = table(models, goals)
    if as_json:
        typer.echo(json.dumps(rows, allow_nan=False))
    else:
        screen.print(_drawn(rows))
        screen.print(
            "the metric and its 95 % bootstrap interval, on examples that the search never saw; "
            "below, the share of the base's score that is kept, and its interval (paired)"
        )
    if run is not None and tailoring is not None:
        if tailoring == chosen_of(run):
            save_evaluation(run, models, tailoring)
        else:
            errors.print(f"{model} is not the model that {run} chose; its scores are not saved")


def _drawn(rows: list[dict[str, Any]]) -> Table:
    names = list(dict.fromkeys(row["model"] for row in rows))
    drawn = Table("task", *names, box=SIMPLE_HEAD, show_lines=True)
    for task in dict.fromkeys(row["task"] for row in rows):
        cells = [_cell(row) for row in rows if row["task"] == task]
        first = next(row for row in rows if row["task"] == task)
        label = "mean kept"
        if task is not None:
            label = f"{task}\n{first['metric']}\non {first['n_examples']}"
        drawn.add_row(label, *cells)
    return drawn


def _cell(row: dict[str, Any]) -> str:
    kept = "share not known"
    if row["retention"] is not None:
        low, high = (_limit(end, ".0%") for end in row["retention_interval"])
        kept = f"{row['retention']:.1%}\n{low}-{high}"
    elif row["value"] is not None:
        kept = "the base scored 0"
    if row["task"] is None:
        return kept
    low, high = (_limit(end, ".2f") for end in row["interval"])
    value = "too large" if row["value"] is None else f"{row['value']:.3f}"
    return f"{value}\n{low}-{high}\n{kept}"


def _limit(end: float | None, form: str) -> str:
    return "no limit" if end is None else format(end, form)
