"""The table of scores: models by tasks, with intervals and shares of a whole member's scores.

A share above chance leaves out what a guess scores: ``(score - chance) / (reference - chance)``,
chance taken from the number of choices of each example, on the same drawn examples as the scores.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptailor.core.layer_spec import BASE
from gptailor.core.metrics import METRICS
from gptailor.core.objective import retention
from gptailor.core.statistics import (
    N_RESAMPLES,
    RESULT,
    Estimate,
    Floats,
    above_chance,
    estimate,
    gaps,
    kept_shares,
    refuse_unpaired,
    samples,
)
from gptailor.core.trial import Measurement, Scores
from gptailor.errors import RecordError

__all__ = [
    "Chances",
    "MeanRow",
    "MeanScore",
    "ScoreRow",
    "ScoreTable",
    "Share",
    "best_member",
    "mean_scores",
    "plain_estimate",
    "score_table",
]

Chances = Mapping[str, Sequence[float]]  # task to how probable a guess is right, by example


@dataclass(frozen=True, slots=True)
class Share:
    """How much of a whole member's score a model keeps, on the same examples."""

    member: str
    kept: Estimate | None  # None where the member scored 0
    # of what the member scores above chance; None where the metric has no chance, or `at_chance`
    above_chance: Estimate | None = None
    at_chance: bool = False  # whether the member's score is not surely above chance

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "member": self.member,
            **plain_estimate("kept", self.kept),
            **plain_estimate("above_chance", self.above_chance),
            "at_chance": self.at_chance,
        }


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """One model on one task, with 95 % intervals."""

    task: str
    metric: str
    model: str  # `base`, a variant's name, `result`, or a row of a comparison
    n_examples: int
    score: Estimate
    of_base: Share | None = None  # None where the base was not scored
    of_best: Share | None = None  # of the best member; None where it is the base
    chance: float | None = None  # what a guess scores; None where the metric has no chance
    difference: Estimate | None = None  # from the row compared with, in the metric's unit

    @property
    def higher_is_better(self) -> bool:
        """Which direction of the metric is better."""
        return METRICS[self.metric].higher_is_better

    @property
    def retention(self) -> Estimate | None:
        """The share of the base's score; None where the base scored 0 or was not scored."""
        return None if self.of_base is None else self.of_base.kept

    def to_plain(self) -> dict[str, Any]:
        """The JSON form; infinite numbers are None."""
        return {
            "model": self.model,
            "task": self.task,
            "metric": self.metric,
            "n_examples": self.n_examples,
            **plain_estimate("value", self.score, "interval"),
            "chance": self.chance,
            **plain_estimate("retention", self.retention),
            **plain_estimate("difference", self.difference),
            **_plain_shares(self.of_base, self.of_best),
        }


@dataclass(frozen=True, slots=True)
class MeanRow:
    """The shares of one model, over the tasks."""

    model: str
    # `kept` is the mean of the tasks' shares; `above_chance` is one share of their mean scores
    of_base: Share | None
    of_best: Share | None

    def to_plain(self) -> dict[str, Any]:
        """The JSON form."""
        kept = None if self.of_base is None else self.of_base.kept
        shares = _plain_shares(self.of_base, self.of_best)
        return {"model": self.model, "task": None, **plain_estimate("retention", kept), **shares}


@dataclass(frozen=True, slots=True)
class MeanScore:
    """The mean of one metric over the tasks, and its difference from the row compared with."""

    score: Estimate
    difference: Estimate


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """Models by tasks."""

    rows: tuple[ScoreRow, ...]  # task by task within a model
    means: Mapping[str, MeanRow]  # by model
    best: str | None = None  # the best whole member; None where there is no base

    @property
    def references(self) -> tuple[str, ...]:
        """The whole members that shares are of: the base, and the best if it is another."""
        return (BASE,) if self.best in (None, BASE) else (BASE, str(self.best))

    @property
    def averages(self) -> dict[str, Estimate]:
        """Model to the mean share of the base's score over the tasks, where it is known."""
        shares = {model: mean.of_base for model, mean in self.means.items()}
        return {model: share.kept for model, share in shares.items() if share and share.kept}

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


@dataclass(frozen=True, slots=True)
class _Sampled:
    """One model on one task, on all examples and on drawn ones; see `samples`."""

    measured: Measurement
    score: Floats
    excess: Floats | None  # above chance; None where the metric has no chance


def score_table(
    models: Mapping[str, Scores],
    metrics: Mapping[str, str],
    *,
    chances: Chances | None = None,
    members: Iterable[str] | None = None,
    against: str | None = None,
    n_resamples: int = N_RESAMPLES,
) -> ScoreTable:
    """Compare models on the same examples by one metric of each task, with bootstrap intervals.

    Args:
        models: Model to its scores.
        metrics: Task to the metric shown.
        chances: Task to how probable a guess is right: one number an example, or one for all.
        members: Which models are whole members; all but `result` if absent.
        against: The model that differences are taken from; no differences if absent.
        n_resamples: Draws of the bootstrap.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    rng = np.random.default_rng(0)
    sampled = {
        task: _sampled(task, metric, models, (chances or {}).get(task), n_resamples, rng)
        for task, metric in metrics.items()
    }
    whole = [name for name in models if name != RESULT] if members is None else members
    best = best_member({name: models[name] for name in whole if name in models}, metrics)
    rows = []
    for model, task in itertools.product(models, metrics):
        if model in sampled[task]:
            one = sampled[task][model]
            of_base, of_best = _shares(model, [sampled[task]], best)
            other = None if against is None else sampled[task].get(against)
            row = ScoreRow(
                task,
                metrics[task],
                model,
                len(one.measured.values),
                estimate(one.score),
                of_base,
                of_best,
                None if one.excess is None else float(one.score[0] - one.excess[0]),
                None if other is None else estimate(gaps(one.score, other.score)),
            )
            rows.append(row)
    means = {model: MeanRow(model, *_shares(model, sampled.values(), best)) for model in models}
    return ScoreTable(tuple(rows), means, best)


def best_member(members: Mapping[str, Scores], metrics: Mapping[str, str]) -> str | None:
    """The whole member that keeps the largest share of the base's score, mean over the tasks.

    The first of equals; None where the base was not scored, or scored 0 everywhere.
    """
    base, means = members.get(BASE, Scores()), {}
    for name, scores in members.items():
        shares = [
            retention(scores.value(task, metric), base.value(task, metric), metric)
            for task, metric in metrics.items()
            if metric in base.tasks.get(task, {}) and metric in scores.tasks.get(task, {})
            if METRICS[metric].relative and abs(base.value(task, metric)) > 1e-9
        ]
        if shares and math.isfinite(mean := sum(shares) / len(shares)):
            means[name] = mean
    return max(means, key=means.__getitem__, default=None)


def mean_scores(
    models: Mapping[str, Scores], against: str, *, n_resamples: int = N_RESAMPLES
) -> dict[str, dict[str, MeanScore]]:
    """Average each metric over the tasks, every task alike: metric -> model -> mean.

    Only metrics that all models have on every task, and that are plain means of the examples.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    tasks = models[against].tasks
    common = [
        metric
        for metric in next(iter(tasks.values()), {})
        if metric in METRICS and METRICS[metric].transform == "identity"
        if all(metric in s.tasks.get(task, {}) for s in models.values() for task in tasks)
    ]
    means: dict[str, dict[str, MeanScore]] = {}
    for metric in common:
        rng = np.random.default_rng(0)
        each = [_sampled(task, metric, models, None, n_resamples, rng) for task in tasks]
        drawn = {name: np.mean([task[name].score for task in each], axis=0) for name in models}
        means[metric] = {
            name: MeanScore(estimate(mean), estimate(gaps(mean, drawn[against])))
            for name, mean in drawn.items()
        }
    return means


def _sampled(
    task: str,
    metric: str,
    models: Mapping[str, Scores],
    chance: Sequence[float] | None,
    n_resamples: int,
    rng: np.random.Generator,
) -> dict[str, _Sampled]:
    """One task: every model that was scored on it, on the same draws."""
    found = {name: scores.tasks.get(task, {}).get(metric) for name, scores in models.items()}
    measured = {name: one for name, one in found.items() if one is not None}
    if not measured:
        return {}
    first = BASE if BASE in measured else next(iter(measured))
    for name, one in measured.items():
        try:
            refuse_unpaired(one, measured[first])
        except RecordError as error:
            raise RecordError(f"task {task!r}, {name!r} and {first!r}: {error}") from None
    excess = [above_chance(one, chance) for one in measured.values()]
    known = [one for one in excess if one is not None]
    drawn = samples([*measured.values(), *known], n_resamples, rng)
    above = drawn[len(measured) :] or itertools.repeat(None)
    return {
        name: _Sampled(one, score, over)
        for (name, one), score, over in zip(measured.items(), drawn, above, strict=False)
    }


def _shares(
    model: str, tasks: Iterable[Mapping[str, _Sampled]], best: str | None
) -> tuple[Share | None, Share | None]:
    """The shares of the base and of the best member, over one task or several."""
    tasks = list(tasks)
    of_best = None if best in (None, BASE) else _share(model, str(best), tasks)
    return _share(model, BASE, tasks), of_best


def _share(model: str, member: str, tasks: Iterable[Mapping[str, _Sampled]]) -> Share | None:
    both = [(task[model], task[member]) for task in tasks if model in task and member in task]
    if not both:
        return None
    shares = [kept_shares(a.score, b.score, a.measured.metric) for a, b in both]
    known = [share for share in shares if share is not None]
    kept = estimate(np.mean(known, axis=0)) if known else None
    pairs = [(a.excess, b.excess) for a, b in both if a.excess is not None and b.excess is not None]
    if not pairs:
        return Share(member, kept)
    ours, theirs = (np.mean(each, axis=0) for each in zip(*pairs, strict=True))
    if not estimate(theirs).low > 0:
        return Share(member, kept, at_chance=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        above = np.where(theirs > 0, ours / theirs, np.copysign(np.inf, ours))
    return Share(member, kept, estimate(np.where(ours == theirs, 1.0, above)))


def plain_estimate(key: str, found: Estimate | None, interval: str = "") -> dict[str, Any]:
    """The two keys of an estimate; infinite numbers are None."""
    interval = interval or f"{key}_interval"
    if found is None:
        return {key: None, interval: None}
    value, *limits = (
        number if math.isfinite(number) else None for number in (found.value, found.low, found.high)
    )
    return {key: value, interval: limits}


def _plain_shares(of_base: Share | None, of_best: Share | None) -> dict[str, Any]:
    return {
        "of_base": None if of_base is None else of_base.to_plain(),
        "of_best": None if of_best is None else of_best.to_plain(),
    }
