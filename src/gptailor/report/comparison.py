"""Members, baselines, results of runs and tailorings side by side, as tables, JSON and a page."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptailor.core.metrics import METRICS
from gptailor.core.objective import Objective
from gptailor.core.score_table import (
    MeanScore,
    ScoreTable,
    best_member,
    mean_scores,
    plain_estimate,
    score_table,
)
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Scores
from gptailor.record.entries import Header
from gptailor.report.grid import Grid, difference_text, estimated, share_cells
from gptailor.report.scores import loss_difference
from gptailor.report.template import write_page
from gptailor.report.words import amount, decimal, duration

__all__ = [
    "PAGE",
    "ComparedModel",
    "Comparison",
    "compared",
    "grids",
    "kept_grid",
    "task_grids",
    "write_comparison",
]

PAGE = "compare.html"


@dataclass(frozen=True, slots=True)
class ComparedModel:
    """One row of a comparison."""

    name: str
    tailoring: Tailoring
    origin: str  # `whole member`, or the run's folder or the file that it comes from
    parameters: int | None  # None where the record does not have them per layer
    layer_tokens: int | None = None  # that finding it cost; None where nothing was to be found
    seconds: float | None = None  # that finding it took
    speed: Estimate | None = None  # how many times as fast as the base; None where not measured


@dataclass(frozen=True, slots=True)
class Comparison:
    """Models scored on the same examples."""

    header: Header  # of the first run
    split: str
    models: tuple[ComparedModel, ...]
    against: str  # the row that differences are taken from
    table: ScoreTable
    means: Mapping[str, Mapping[str, MeanScore]]  # metric to model to its mean over the tasks
    losses: Mapping[str, Estimate]  # model to its mean loss less that of the row compared with
    notes: tuple[str, ...] = ()

    def to_plain(self) -> dict[str, Any]:
        """The JSON form; infinite numbers are None."""
        return {
            "split": self.split,
            "against": self.against,
            "best_member": self.table.best,
            "models": [self._plain(model) for model in self.models],
            "notes": list(self.notes),
        }

    def _plain(self, model: ComparedModel) -> dict[str, Any]:
        name = model.name
        return {
            "name": name,
            "origin": model.origin,
            "digest": model.tailoring.digest,
            "n_layers": len(model.tailoring.layers),
            "parameters": model.parameters,
            "layer_tokens": model.layer_tokens,
            "seconds": model.seconds,
            **plain_estimate("speed", model.speed),
            **plain_estimate("loss_difference", self.losses.get(name)),
            "means": {
                metric: plain_estimate("value", means[name].score, "interval")
                | plain_estimate("difference", means[name].difference)
                for metric, means in self.means.items()
            },
            "mean": self.table.means[name].to_plain(),
            "tasks": [row.to_plain() for row in self.table.rows_of(name)],
        }


def compared(
    header: Header,
    models: Sequence[ComparedModel],
    scores: Mapping[str, Scores],
    *,
    split: str,
    against: str | None = None,
    notes: tuple[str, ...] = (),
) -> Comparison:
    """Compare models by their scores on the same examples.

    Args:
        header: Of the first run.
        models: The rows.
        scores: Names of rows, and of whole members, to their scores; those of the base among them.
        split: Which examples they are scored on.
        against: The row or member that differences are taken from; the best member if absent.
        notes: What people are to know of rows that are not there.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    metrics = {goal.task: goal.metric for goal in header.goals}
    members = [name for name in header.family.members if name in scores]
    row = against or best_member({name: scores[name] for name in members}, metrics) or BASE
    chances = header.chances(split)
    table = score_table(scores, metrics, chances=chances, members=members, against=row)
    objective = Objective(header.goals, scores[BASE])
    losses = {name: loss_difference(objective, one, scores[row]) for name, one in scores.items()}
    return Comparison(
        header,
        split,
        tuple(models),
        row,
        table,
        mean_scores(scores, row),
        {name: loss for name, loss in losses.items() if math.isfinite(loss.value)},
        notes,
    )


def grids(comparison: Comparison) -> tuple[Grid, ...]:
    """The tables of a comparison: what models keep, means of metrics, tasks, costs."""
    return kept_grid(comparison), *task_grids(comparison), _costs(comparison)


def kept_grid(comparison: Comparison) -> Grid:
    """What models keep of the base's and the best member's scores, and their losses."""
    members = comparison.table.references
    head = [text for name in members for text in (f"of {name}", "above chance")]
    rows = []
    for model in comparison.models:
        mean = comparison.table.means[model.name]
        shares = (mean.of_base, mean.of_best)[: len(members)]
        loss = difference_text(comparison.losses.get(model.name), higher_is_better=False)
        rows.append((model.name, *(cell for share in shares for cell in share_cells(share)), loss))
    loss_head = f"loss, from\n{comparison.against}"
    return Grid("What is kept, mean over the tasks", ("model", *head, loss_head), tuple(rows))


def task_grids(comparison: Comparison) -> tuple[Grid, ...]:
    """Means of metrics that all tasks have, if there are any, and the scores task by task."""
    made = _means(comparison), _tasks(comparison)
    return tuple(grid for grid in made if len(grid.head) > 1)


def write_comparison(comparison: Comparison, path: Path) -> Path:
    """Write a page about a comparison; it opens offline and runs nothing.

    Raises:
        UserError: The file can't be written, or is another's.
    """
    facts = {"comparison": comparison, "header": comparison.header, "grids": grids(comparison)}
    write_page(path, "comparison.html.jinja", lambda: facts)
    return path


def _costs(comparison: Comparison) -> Grid:
    rows = [
        (
            model.name,
            str(len(model.tailoring.layers)),
            "" if model.parameters is None else amount(model.parameters),
            estimated(model.speed, "{:.2f}x".format),
            "" if model.layer_tokens is None else amount(model.layer_tokens),
            "" if model.seconds is None else duration(model.seconds),
        )
        for model in comparison.models
    ]
    head = (
        "model",
        "layers",
        "parameters",
        "speed",
        "layer-tokens\nto find it",
        "time\nto find it",
    )
    return Grid("Size, speed and cost", head, tuple(rows))


def _means(comparison: Comparison) -> Grid:
    rows = [
        (
            model.name,
            *(
                _scored(means[model.name].score, means[model.name].difference, metric)
                for metric, means in comparison.means.items()
            ),
        )
        for model in comparison.models
    ]
    head = [f"{metric} {_direction(metric)}" for metric in comparison.means]
    return Grid("Means over the tasks", ("model", *head), tuple(rows))


def _tasks(comparison: Comparison) -> Grid:
    table, rows = comparison.table, []
    for model in comparison.models:
        found = [table.row(model.name, task.task) for task in table.tasks]
        cells = ["" if r is None else _scored(r.score, r.difference, r.metric) for r in found]
        rows.append((model.name, *cells))
    head = [
        f"{task.task}\n{task.metric} {_direction(task.metric)}\non {task.n_examples}"
        + ("" if task.chance is None else f"\nchance {task.chance:.3f}")
        for task in table.tasks
    ]
    return Grid("Task by task", ("model", *head), tuple(rows))


def _scored(score: Estimate, difference: Estimate | None, metric: str) -> str:
    better = METRICS[metric].higher_is_better
    lines = estimated(score, decimal), difference_text(difference, higher_is_better=better)
    return "\n".join(line for line in lines if line)


def _direction(metric: str) -> str:
    return "↑" if METRICS[metric].higher_is_better else "↓"
