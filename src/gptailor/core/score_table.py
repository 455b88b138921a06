"""The table of scores: every model on every task, with intervals and the share of the base's."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptailor.core.layer_spec import BASE
from gptailor.core.metrics import METRICS
from gptailor.core.statistics import (
    Estimate,
    average_retention,
    bootstrap_interval,
    retention_interval,
)
from gptailor.core.trial import Scores
from gptailor.errors import RecordError

__all__ = ["N_RESAMPLES", "RESULT", "ScoreRow", "ScoreTable", "score_table"]

N_RESAMPLES = 10_000  # of the bootstrap
RESULT = "result"


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One model on one task, with 95 % intervals."""

    task: str
    metric: str
    model: str  # `base`, a variant's name, or `result`
    n_examples: int
    score: Estimate
    retention: Estimate | None = None  # None where the base scored 0 or was not scored

    @property
    def higher_is_better(self) -> bool:
        """Which direction of the metric is better."""
        return METRICS[self.metric].higher_is_better

    def to_plain(self) -> dict[str, Any]:
        """The JSON form; infinite numbers are None."""
        kept = self.retention
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "n_examples": self.n_examples,
            "value": _finite(self.score.value),
            "interval": [_finite(self.score.low), _finite(self.score.high)],
            "retention": None if kept is None else _finite(kept.value),
            "retention_interval": None if kept is None else [_finite(kept.low), _finite(kept.high)],
        }


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Models by tasks."""

    rows: tuple[ScoreRow, ...]  # task by task within a model
    averages: Mapping[str, Estimate]  # model -> mean retention over the tasks, where it is known

    @property
    def tasks(self) -> tuple[ScoreRow, ...]:
        """One row of each task, that with the most examples."""
        most: dict[str, ScoreRow] = {}
        for row in self.rows:
            if row.task not in most or row.n_examples > most[row.task].n_examples:
                most[row.task] = row
        return tuple(most.values())

    @property
    def models(self) -> tuple[str, ...]:
        """The models that have a row, in order."""
        return tuple(dict.fromkeys(row.model for row in self.rows))

    def rows_of(self, model: str) -> tuple[ScoreRow, ...]:
        """The rows of a model."""
        return tuple(row for row in self.rows if row.model == model)

    def row(self, model: str, task: str) -> ScoreRow | None:
        """The row of a model on a task, if it was scored there."""
        found = (row for row in self.rows if (row.model, row.task) == (model, task))
        return next(found, None)


def score_table(
    models: Mapping[str, Scores], metrics: Mapping[str, str], *, n_resamples: int = N_RESAMPLES
) -> ScoreTable:
    """Compare models on the same examples by one metric of each task, with bootstrap intervals.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    rows, averages = [], {}
    base = models.get(BASE, Scores())
    for model, scores in models.items():
        pairs = []
        for task, metric in metrics.items():
            ours = scores.tasks.get(task, {}).get(metric)
            theirs = base.tasks.get(task, {}).get(metric)
            if ours is None:
                continue
            kept = None
            if theirs is not None:
                pairs.append((ours, theirs))
                try:
                    kept = retention_interval(ours, theirs, n_resamples=n_resamples)
                except RecordError as error:
                    raise RecordError(f"task {task!r}, {model!r} and 'base': {error}") from None
            score = bootstrap_interval(ours, n_resamples=n_resamples)
            rows.append(ScoreRow(task, metric, model, len(ours.values), score, kept))
        average = average_retention(pairs, n_resamples=n_resamples) if pairs else None
        if average is not None and math.isfinite(average.value):
            averages[model] = average
    return ScoreTable(tuple(rows), averages)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
