"""Intervals for scores, which say how far they can be trusted, and the table of scores.

All intervals are percentile bootstrap intervals over examples (Efron & Tibshirani 1993, *An
Introduction to the Bootstrap*, ch. 13): draw n of the n examples with replacement, compute the
metric, repeat, and cut the sorted results at both ends. Percentile and not BCa, because then every
comparison of the same two models agrees with itself: the retention's interval holds 1 where the
difference's interval holds 0. It leans to the narrow side below some 20 examples.

Two models are always compared in pairs: one draw of examples serves both. The same input and seed
give the same interval.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gptailor.core.layer_spec import BASE
from gptailor.core.metrics import METRICS
from gptailor.core.objective import retention
from gptailor.core.trial import Measurement, Scores
from gptailor.errors import RecordError

__all__ = [
    "N_RESAMPLES",
    "RESULT",
    "Estimate",
    "ScoreRow",
    "ScoreTable",
    "average_retention",
    "bootstrap_interval",
    "paired_difference",
    "retention_interval",
    "score_table",
]

N_RESAMPLES = 10_000  # of the bootstrap
RESULT = "result"

Floats = NDArray[np.float64]
_CHUNK = 1_000_000  # examples drawn at once: 8 MB of indices
_TINY = 1e-9  # a score nearer to 0 is 0
_MAX_LOG = 700.0  # exp of more is infinite; as in metrics.aggregate


@dataclass(frozen=True, slots=True)
class Estimate:
    """A measured value and the limits of its interval; `high` may be infinite."""

    value: float
    low: float
    high: float

    @property
    def is_point(self) -> bool:
        """Whether the interval has no width, as of one example, or of several that are equal."""
        return self.low == self.high


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


def bootstrap_interval(
    measurement: Measurement, *, n_resamples: int = N_RESAMPLES, level: float = 0.95, seed: int = 0
) -> Estimate:
    """Bound one metric of one model.

    Args:
        measurement: One number an example, and their weights.
        n_resamples: How many times the examples are drawn anew.
        level: Share of such intervals that hold the true value, above 0 and below 1.
        seed: Of the draws.

    Example:
        >>> bootstrap_interval(Measurement("acc", (1.0, 0.0, 1.0, 1.0)), seed=0)
        Estimate(value=0.75, low=0.25, high=1.0)
    """
    (drawn,) = _resampled((measurement,), n_resamples, np.random.default_rng(seed))
    return _cut(drawn, level, measurement.value)


def paired_difference(
    ours: Measurement,
    theirs: Measurement,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Bound how far one model is above another on the same examples, in the metric's unit.

    Both are measured on the same examples in the same order; the other arguments are those of
    `bootstrap_interval`.

    Raises:
        RecordError: The two were not measured on the same examples.
    """
    ours_drawn, theirs_drawn = _pair(ours, theirs, n_resamples, np.random.default_rng(seed))
    gaps = _gaps(ours_drawn, theirs_drawn)
    value = float(_gaps(np.array(ours.value), np.array(theirs.value)))
    return _cut(gaps, level, value)


def retention_interval(
    ours: Measurement,
    reference: Measurement,
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate | None:
    """Bound the share of the reference's score that a model keeps; 1 is all of it.

    Both are measured on the same examples in the same order; the other arguments are those of
    `bootstrap_interval`.

    Returns:
        None where the reference scored 0: then there is nothing to keep a share of.

    Raises:
        RecordError: The two were not measured on the same examples.
    """
    return average_retention([(ours, reference)], n_resamples=n_resamples, level=level, seed=seed)


def average_retention(
    pairs: Sequence[tuple[Measurement, Measurement]],
    *,
    n_resamples: int = N_RESAMPLES,
    level: float = 0.95,
    seed: int = 0,
) -> Estimate | None:
    """Bound the mean over tasks of the share of the reference's score that is kept.

    Every task counts the same, and examples are drawn within each task on their own. A pair is the
    model's and the reference's measurement of one task; the other arguments are those of
    `bootstrap_interval`.

    Returns:
        The mean over the tasks where the reference scored something; None if there is no such task.

    Raises:
        RecordError: A pair was not measured on the same examples.
    """
    rng = np.random.default_rng(seed)
    values, shares = [], []
    for ours, reference in pairs:
        ours_drawn, reference_drawn = _pair(ours, reference, n_resamples, rng)
        value = retention(ours.value, reference.value, ours.metric)
        if np.isfinite(value) and abs(reference.value) > _TINY:
            values.append(value)
            shares.append(_ratios(ours_drawn, reference_drawn, ours.metric))
    if not values:
        return None
    mean = float(np.mean(values))
    return _cut(np.mean(shares, axis=0), level, mean)


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


def _pair(
    ours: Measurement, theirs: Measurement, n_resamples: int, rng: np.random.Generator
) -> tuple[Floats, Floats]:
    """The metric of both on the same drawn examples; two of shape (n_resamples,)."""
    if ours.metric != theirs.metric:
        raise RecordError(f"{ours.metric} of one model can't be compared with {theirs.metric}")
    n_ours, n_theirs = len(ours.values), len(theirs.values)
    if n_ours != n_theirs or ours.weights != theirs.weights:
        how = f"{n_ours} and {n_theirs}" if n_ours != n_theirs else "their weights differ"
        raise RecordError(
            f"two models were not measured on the same examples ({how}); "
            "evaluate both again on one set"
        )
    first, second = _resampled((ours, theirs), n_resamples, rng)
    return first, second


def _resampled(
    measurements: Sequence[Measurement], n_resamples: int, rng: np.random.Generator
) -> Iterator[Floats]:
    """The metric of each measurement on the same drawn examples; NaN where it has no value."""
    n = len(measurements[0].values)
    if n == 0:
        raise RecordError("a score without examples has no interval; evaluate on at least one")
    given = measurements[0].weights
    weights = np.ones(n) if given is None else np.array(given, dtype=np.float64)
    weighted = np.array([m.values for m in measurements], dtype=np.float64) * weights  # (k, n)
    means = np.empty((len(measurements), n_resamples))
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        drawn = rng.integers(0, n, size=(stop - start, n))
        totals = weights[drawn].sum(axis=1)
        totals[totals == 0] = np.nan
        for row, numbers in enumerate(weighted):
            means[row, start:stop] = numbers[drawn].sum(axis=1) / totals
    return (_transformed(m.metric, row) for m, row in zip(measurements, means, strict=True))


def _transformed(metric: str, means: Floats) -> Floats:
    if METRICS[metric].transform == "identity":
        return means
    return np.where(means < _MAX_LOG, np.exp(np.minimum(means, _MAX_LOG)), np.inf)


def _ratios(ours: Floats, reference: Floats, metric: str) -> Floats:
    """`gptailor.core.objective.retention` for arrays; a positive number by 0 is infinite."""
    upside_down = not METRICS[metric].higher_is_better or bool(np.any(reference < 0))
    above, below = (reference, ours) if upside_down else (ours, reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        return above / below


def _cut(drawn: Floats, level: float, value: float) -> Estimate:
    """The estimate of `value` whose limits cut both ends off the drawn numbers; NaN is left out."""
    known = drawn[~np.isnan(drawn)]
    first, last = (float(known.min()), float(known.max())) if known.size else (value, value)
    # sums in another order differ in the last bit
    if first == last or last - first <= 1e-12 * max(abs(first), abs(last)) < math.inf:
        return Estimate(value, value, value)
    n_off = min(math.floor((1 - level) / 2 * known.size + 1e-9), (known.size - 1) // 2)
    ranks = n_off, known.size - 1 - n_off
    # as many off at both ends, and draws rather than blends of two: so there is no inf - inf, and
    # turning a metric over turns its interval over
    low, high = np.partition(known, ranks)[list(ranks)]
    return Estimate(value, float(low), float(high))


def _gaps(ours: Floats, theirs: Floats) -> Floats:
    """Differences; two infinite perplexities do not differ."""
    with np.errstate(invalid="ignore"):
        return np.where(ours == theirs, 0.0, ours - theirs)


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
