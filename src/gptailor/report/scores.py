"""The scores to show: of which models, on which examples, with which intervals.

The best evidence wins: an evaluation by lm-eval, else the engine's scores on the test split, else
those on the selection split, else the search's own. Knows nothing of pages.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gptailor.core.metrics import METRICS
from gptailor.core.statistics import (
    Estimate,
    Interval,
    average_retention,
    bootstrap_interval,
    retention_interval,
)
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Measurement, Scores, Trial
from gptailor.errors import RecordError
from gptailor.record.entries import Header, to_scores
from gptailor.record.run import RunRecord

__all__ = [
    "RESULT",
    "Cell",
    "Column",
    "Evidence",
    "Row",
    "ScoreTable",
    "best_trial",
    "evidence",
    "like",
    "parameters_of",
    "score_table",
]

RESULT = "result"
_N_RESAMPLES = 10_000


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scores of several models on the same examples.

    Args:
        split: The examples: ``test``, ``selection`` or ``search``.
        judge: Who scored: ``evaluation`` (lm-eval) or ``engine``.
        models: Model name to scores; the base and the result among them where known.
        parameters: Model name to its parameters where an evaluation told them.
        n_resamples: Of the bootstrap.
    """

    split: Literal["test", "selection", "search"]
    judge: Literal["evaluation", "engine"]
    models: Mapping[str, Scores]
    parameters: Mapping[str, int]
    n_resamples: int = _N_RESAMPLES


@dataclass(frozen=True, slots=True)
class Cell:
    """One metric of one model: its value, its interval, and what is kept of the base's."""

    value: float
    interval: Interval
    retention: Estimate | None


@dataclass(frozen=True, slots=True)
class Row:
    """One model; a cell is None where the model was not scored on the column."""

    name: str
    parameters: int | None
    cells: tuple[Cell | None, ...]
    average: Estimate | None


@dataclass(frozen=True, slots=True)
class Column:
    """One metric of one task, and on how many examples."""

    task: str
    metric: str
    n_examples: int
    is_goal: bool

    @property
    def higher_is_better(self) -> bool:
        """Which way is better."""
        return METRICS[self.metric].higher_is_better


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Models by tasks."""

    evidence: Evidence
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]

    @property
    def result(self) -> Row | None:
        """The row of the tailored model."""
        return next((row for row in self.rows if row.name == RESULT), None)

    @property
    def has_points(self) -> bool:
        """Whether an interval has no width, which wants a word of explanation."""
        return any(cell and cell.interval.is_point for row in self.rows for cell in row.cells)


def best_trial(run: RunRecord) -> Trial | None:
    """The chosen trial, else the best so far on the most examples."""
    if run.result is not None:
        return run.result
    objective = run.objective
    if objective is None or not run.able:
        return None
    return min(run.able, key=lambda trial: objective.scalar(_scores(trial)))


def parameters_of(header: Header, tailoring: Tailoring) -> int | None:
    """Parameters of a tailoring; None where the record does not tell them per layer."""
    per_layer = header.family.layer_parameters
    if len(per_layer) != header.family.n_layers or not header.family.parameters:
        return None
    outside = header.family.parameters - sum(per_layer)
    return outside + sum(per_layer[spec.sources[0].layer or 0] for spec in tailoring.layers)


def evidence(run: RunRecord) -> Evidence | None:
    """The best scores that a run has; None where no candidate was scored at all."""
    if run.evaluation is not None and run.evaluation.models:
        models = {model.name: to_scores(model.scores) for model in run.evaluation.models}
        told = {m.name: m.parameters for m in run.evaluation.models if m.parameters is not None}
        split, n_resamples = run.evaluation.split, run.evaluation.n_resamples
        return Evidence(split, "evaluation", models, told, n_resamples)
    if RESULT in run.reported:
        return Evidence("test", "engine", run.reported, {})
    best = best_trial(run)
    if best is None:
        return None
    if run.chosen is not None and best.number in run.finalists:
        models = {**run.compared, RESULT: run.finalists[best.number]}
        return Evidence("selection", "engine", models, {})
    scores = _scores(best)
    models = {name: like(other, scores) for name, other in run.references.items()}
    return Evidence("search", "engine", {**models, RESULT: scores}, {})


def score_table(run: RunRecord) -> ScoreTable | None:
    """Base, variants and result by task, with intervals; None where nothing was scored.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    found = evidence(run)
    if found is None:
        return None
    columns = _columns(run, found)
    order = [*run.header.family.members, RESULT]
    names = [name for name in order if name in found.models]
    names += [name for name in found.models if name not in order]
    rows = tuple(_row(run, found, columns, name) for name in names)
    return ScoreTable(found, columns, rows)


def _columns(run: RunRecord, found: Evidence) -> tuple[Column, ...]:
    """The goals first, then what else was evaluated, each by its first metric."""
    wanted = {goal.task: goal.metric for goal in run.goals}
    first: dict[str, str] = {}
    for scores in found.models.values():
        for task, metrics in scores.tasks.items():
            if metrics:
                first.setdefault(task, next(iter(metrics)))
    columns = []
    for task in [*wanted, *(task for task in first if task not in wanted)]:
        metric = wanted.get(task, first.get(task, ""))
        counts = [
            len(scores.tasks[task][metric].values)
            for scores in found.models.values()
            if metric in scores.tasks.get(task, {})
        ]
        if counts:
            columns.append(Column(task, metric, max(counts), task in wanted))
    return tuple(columns)


def _row(run: RunRecord, found: Evidence, columns: Sequence[Column], name: str) -> Row:
    base = None if name == BASE else found.models.get(BASE)
    cells: list[Cell | None] = []
    pairs = []
    for column in columns:
        ours = _measured(found.models[name], column)
        theirs = None if base is None else _measured(base, column)
        if ours is None:
            cells.append(None)
            continue
        kept = None
        if theirs is not None:
            kept = _kept(name, column, ours, theirs, found.n_resamples)
            pairs.append((ours, theirs))
        interval = bootstrap_interval(ours, n_resamples=found.n_resamples)
        cells.append(Cell(ours.value, interval, kept))
    average = average_retention(pairs, n_resamples=found.n_resamples) if pairs else None
    return Row(name, _parameters(run, found, name), tuple(cells), average)


def _kept(
    name: str, column: Column, ours: Measurement, theirs: Measurement, n_resamples: int
) -> Estimate | None:
    try:
        return retention_interval(ours, theirs, n_resamples=n_resamples)
    except RecordError as error:
        raise RecordError(f"task {column.task!r}, {name!r} and 'base': {error}") from None


def _parameters(run: RunRecord, found: Evidence, name: str) -> int | None:
    if name in found.parameters:
        return found.parameters[name]
    if name != RESULT:
        return run.header.family.parameters or None
    best = best_trial(run)
    return None if best is None else parameters_of(run.header, best.tailoring)


def _measured(scores: Scores, column: Column) -> Measurement | None:
    return scores.tasks.get(column.task, {}).get(column.metric)


def like(scores: Scores, pattern: Scores) -> Scores:
    """Cut the scores of a whole member to the first examples, which are those a candidate saw.

    Args:
        scores: On all the examples of a split.
        pattern: The candidate's, on as many or fewer.
    """
    return Scores(
        {
            task: {
                name: Measurement(name, scores.tasks[task][name].values[: len(m.values)], m.weights)
                for name, m in metrics.items()
                if name in scores.tasks.get(task, {})
            }
            for task, metrics in pattern.tasks.items()
        }
    )


def _scores(trial: Trial) -> Scores:
    assert trial.scores is not None, "only complete trials are shown with scores"
    return trial.scores
