"""Objective: turn scores into losses to minimise; the only place where a sign is flipped.

A loss is relative to the base, so that tasks with unlike metrics add up: 0 is as good as the base,
0.1 is a tenth of the base's score lost, below 0 is better than the base. It is linear in the
per-example numbers of every metric that is a plain mean, so two candidates can be compared in
pairs; a perplexity, which is not linear, is compared along the chord of exp.

Tasks that are kept apart have losses with one row a candidate and one column a task.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, FiniteFloat

from gptailor.core.metrics import METRICS
from gptailor.core.trial import Measurement, Scores

__all__ = [
    "Goal",
    "Objective",
    "draw_weights",
    "near_first",
    "normalised",
    "parego",
    "pareto_front",
    "retention",
]

Floats = NDArray[np.float64]
K = TypeVar("K")
_TINY = 1e-9
_NOTHING = 1e-4  # a base's score below this, as its divergence from itself, is no unit
_MAX_LOG = 700.0  # exp of more is infinite; as in metrics.aggregate
_RHO = 0.05  # share of the weighted sum: Knowles 2006, ParEGO, eq. 2


@dataclass(frozen=True, slots=True)
class Goal:
    """What is wanted of one task.

    Args:
        task: The task's name.
        metric: The user's own metric.
        weight: How much the task counts in the weighted sum, relative to the others.
        proxy: The metric that ranks candidates where there are few examples; the metric's own
            proxy (`METRICS`) when None.
        worst: Whether only the largest loss among such tasks counts, with the weight of all of
            them; their losses are the metric itself, not relative to the base.
    """

    task: str
    metric: str
    weight: Annotated[FiniteFloat, Field(gt=0)] = 1.0
    proxy: str | None = None
    worst: bool = False

    def measured(self, *, proxy: bool) -> str:
        """The user's own metric, or the proxy that ranks candidates on few examples."""
        return (self.proxy or METRICS[self.metric].proxy or self.metric) if proxy else self.metric


class Objective:
    """Turn scores into losses.

    Args:
        goals: One a task.
        reference: Scores of the base on all search examples; losses are relative to it.
    """

    def __init__(self, goals: Sequence[Goal], reference: Scores) -> None:
        self.goals = tuple(goals)
        self.reference = reference
        self._values: dict[tuple[str, str], float] = {}  # of the reference, once known
        weights = np.array([goal.weight for goal in self.goals], dtype=np.float64)
        self.weights: Floats = weights / weights.sum()
        self._worst = np.array([goal.worst for goal in self.goals], dtype=bool)

    def losses(self, scores: Scores, *, proxy: bool = False) -> Floats:
        """One loss a task, relative to the base; shape (n_tasks,), dimensionless.

        Args:
            scores: Of one candidate, on any number of examples.
            proxy: Whether to use the continuous proxy instead of the user's own metric.
        """
        return np.array([self._loss(goal, scores, proxy) for goal in self.goals])

    def scalar(self, scores: Scores, *, proxy: bool = False) -> float:
        """The weighted mean of the losses."""
        return self.combined(self.losses(scores, proxy=proxy))

    def combined(self, losses: Floats) -> float:
        """The weighted mean of losses, (n_tasks,), with the largest `worst` one for all such."""
        worst = losses[self._worst].max(initial=-np.inf)
        return float(self.weights @ np.where(self._worst, worst, losses))

    def difference(
        self, ours: Scores, theirs: Scores, *, proxy: bool = False
    ) -> tuple[float, float]:
        """Compare two candidates in pairs, on the examples that both saw.

        Returns:
            Our scalar loss less theirs, below 0 if we are better, and its standard error (0 when
            the pairs do not differ at all).
        """
        mean, variance = 0.0, 0.0
        worst: list[tuple[float, float, float]] = []
        for goal, weight in zip(self.goals, self.weights, strict=True):
            metric = goal.measured(proxy=proxy)
            pair = ours.tasks[goal.task][metric], theirs.tasks[goal.task][metric]
            gap, error = _paired(*pair)
            if goal.worst:
                worst.append((*_means(*pair), error))
                continue
            factor = weight / self.unit(goal, metric)
            mean += factor * gap
            variance += (factor * error) ** 2
        if worst:  # they may be two goals: the larger error of the two is taken
            factor = float(self.weights[self._worst].sum())
            most, one = max((own, error) for own, _, error in worst)
            least, other = max((their, error) for _, their, error in worst)
            mean += factor * (most - least)
            variance += (factor * max(one, other)) ** 2
        return mean, variance**0.5

    def unit(self, goal: Goal, metric: str) -> float:
        """The denominator of a loss: the base's score or 1, below 0 where higher is better."""
        reference = abs(self._reference(goal, metric))
        unit = reference if self._is_relative(goal, metric) else 1.0
        return -unit if METRICS[metric].higher_is_better else unit

    @property
    def is_relative(self) -> bool:
        """Whether every loss is a share of the base's score, and none a difference from it."""
        return all(self._is_relative(goal, goal.metric) for goal in self.goals)

    def _is_relative(self, goal: Goal, metric: str) -> bool:
        return abs(self._reference(goal, metric)) > _NOTHING and METRICS[metric].relative

    def _loss(self, goal: Goal, scores: Scores, proxy: bool) -> float:
        metric = goal.measured(proxy=proxy)
        gain = scores.value(goal.task, metric) - self._reference(goal, metric)
        return gain / self.unit(goal, metric)

    def _reference(self, goal: Goal, metric: str) -> float:
        if goal.worst:
            return 0.0
        key = (goal.task, metric)
        if key not in self._values:
            self._values[key] = self.reference.value(*key)
        return self._values[key]


def _paired(ours: Measurement, theirs: Measurement) -> tuple[float, float]:
    """Mean difference on the examples that both saw, and its standard error."""
    shares, ours_n, theirs_n = _common(ours, theirs)
    n, gaps = len(shares), ours_n - theirs_n
    center = float(shares @ gaps)
    spread = float((shares**2) @ (gaps - center) ** 2) * n / (n - 1) if n > 1 else 0.0
    slope = 1.0
    if METRICS[ours.metric].transform == "exp":  # nats per word to perplexity: the chord of exp
        means = float(shares @ ours_n), float(shares @ theirs_n)
        slope = _slope_of_exp(min(*means, _MAX_LOG), min(max(means), _MAX_LOG))
    return slope * center, slope * spread**0.5


def _means(ours: Measurement, theirs: Measurement) -> tuple[float, float]:
    """The means on the examples that both saw."""
    shares, ours_n, theirs_n = _common(ours, theirs)
    return float(shares @ ours_n), float(shares @ theirs_n)


def _common(ours: Measurement, theirs: Measurement) -> tuple[Floats, Floats, Floats]:
    """Weights of sum 1 of the examples that both saw, and the values of each there."""
    n = min(len(ours.values), len(theirs.values))
    given = ours.weights if len(ours.values) == n else theirs.weights  # those of n examples
    shares = np.ones(n) if given is None else np.array(given)
    return shares / shares.sum(), np.array(ours.values[:n]), np.array(theirs.values[:n])


def _slope_of_exp(low: float, high: float) -> float:
    """``(exp(high) - exp(low)) / (high - low)``; the derivative where they are equal."""
    rise = high - low
    return math.exp(low) * (math.expm1(rise) / rise if rise > 0 else 1.0)


def retention(value: float, reference: float, metric: str) -> float:
    """The share of the reference's score that is kept; 1 is all of it.

    ``value / reference`` where higher is better, ``reference / value`` where lower is, and where
    the scores are log-probabilities, which are below 0.
    """
    upside_down = reference < 0 or not METRICS[metric].higher_is_better
    above, below = (reference, value) if upside_down else (value, reference)
    return above / below if abs(below) > _TINY else float("nan")


def pareto_front(losses: Floats) -> tuple[int, ...]:
    """Indices of the rows that no other row dominates: as good in every task and better in one.

    Of equal rows only the first is on the front; rows that are not finite never are. Losses have
    the shape (n_candidates, n_tasks).

    Example:
        >>> pareto_front(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
        (0, 1)
    """
    front = []
    for row, ours in enumerate(losses):
        if not np.all(np.isfinite(ours)):
            continue
        no_worse = np.all(losses <= ours, axis=1)
        beaten = np.any(no_worse & np.any(losses < ours, axis=1))
        twin_before = np.any(np.all(losses[:row] == ours, axis=1))
        if not beaten and not twin_before:
            front.append(row)
    return tuple(front)


def normalised(losses: Floats, run: Floats) -> Floats:
    """Scale each task so that its best loss in `run` (n_candidates, n_tasks) is 0, its worst 1."""
    finite = run[np.all(np.isfinite(run), axis=1)]
    if not len(finite):
        return losses
    low, high = finite.min(axis=0), finite.max(axis=0)
    scaled: Floats = (losses - low) / np.where(high > low, high - low, 1.0)
    return scaled


def parego(losses: Floats, weights: Floats) -> Floats:
    """The augmented Tchebycheff norm ``max_i(w_i f_i) + 0.05 sum_i w_i f_i``.

    Of normalised losses, shape (..., n_tasks), and weights of sum 1; Knowles 2006,
    https://doi.org/10.1109/TEVC.2005.851274.
    """
    weighted = losses * weights
    scalar: Floats = weighted.max(axis=-1) + _RHO * weighted.sum(axis=-1)
    return scalar


def draw_weights(n_tasks: int, rng: np.random.Generator) -> Floats:
    """Draw weights of sum 1, every mixture as likely as any other."""
    return rng.dirichlet(np.ones(n_tasks))


def near_first(
    order: Sequence[K], is_near: Callable[[K], bool], key: Callable[[K], Any]
) -> list[K]:
    """Sort those that are near the best of an order by another key, before the others.

    Args:
        order: The best first; it is kept among equals, and among the others.
        is_near: Whether a difference from the best is not sure.
        key: What those near it are sorted by, such as the loss by the proxy metric.
    """
    near = {each for each in order if is_near(each)}
    rest = [each for each in order if each not in near]
    return sorted((each for each in order if each in near), key=key) + rest
