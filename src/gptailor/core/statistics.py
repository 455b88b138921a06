"""Intervals for scores, which say how far they can be trusted.

All intervals are percentile bootstrap intervals over examples (Efron & Tibshirani 1993, *An
Introduction to the Bootstrap*, ch. 13): draw n of the n examples with replacement, compute the
metric, repeat, and cut the sorted results at both ends. Percentile and not BCa, because then every
comparison of the same two models agrees with itself: the retention's interval holds 1 where the
difference's interval holds 0. It leans to the narrow side below some 20 examples.

Two models are always compared in pairs: one draw of examples serves both. The same input and seed
give the same interval.
"""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptailor.core.metrics import METRICS
from gptailor.core.trial import Measurement
from gptailor.errors import RecordError

__all__ = [
    "N_RESAMPLES",
    "RESULT",
    "Estimate",
    "above_chance",
    "estimate",
    "gaps",
    "kept_shares",
    "refuse_unpaired",
    "samples",
    "together",
]

N_RESAMPLES = 10_000  # of the bootstrap
RESULT = "result"

Floats = NDArray[np.float64]
_GUESSED = ("acc", "acc_norm")  # shares of right answers, some of which are lucky guesses
_CHUNK = 1_000_000  # examples drawn at once: 8 MB of indices
_TAIL = 0.025  # share of the draws beyond each limit of an interval
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


def above_chance(measured: Measurement, chance: Sequence[float] | None) -> Measurement | None:
    """Subtract what a guess scores from each example's number.

    Args:
        measured: Of any metric.
        chance: How probable a guess is right, one number an example, or one for all of them; those
            of more examples than were measured may follow.

    Returns:
        None where a guess has no score: without choices, or by another metric than `acc` and
        `acc_norm`.

    Example:
        >>> above_chance(Measurement("acc", (1.0, 0.0)), (0.25,))
        Measurement(metric='acc', values=(0.75, -0.25), weights=None)
    """
    n = len(measured.values)
    if not chance or measured.metric not in _GUESSED or 1 < len(chance) < n:
        return None
    values = np.array(measured.values) - np.broadcast_to(np.array(chance[:n]), n)
    return dataclasses.replace(measured, values=tuple(values.tolist()))


def refuse_unpaired(ours: Measurement, theirs: Measurement) -> None:
    """Refuse two measurements that are not of the same metric and examples.

    Raises:
        RecordError: They can't be compared in pairs.
    """
    if ours.metric != theirs.metric:
        raise RecordError(f"{ours.metric} of one model can't be compared with {theirs.metric}")
    n_ours, n_theirs = len(ours.values), len(theirs.values)
    if n_ours != n_theirs or ours.weights != theirs.weights:
        how = f"{n_ours} and {n_theirs}" if n_ours != n_theirs else "their weights differ"
        raise RecordError(
            f"two models were not measured on the same examples ({how}); "
            "evaluate both again on one set"
        )


def samples(
    measurements: Sequence[Measurement], n_resamples: int, rng: np.random.Generator
) -> list[Floats]:
    """Compute metrics on all examples, then on examples that are drawn anew, the same for all.

    Args:
        measurements: Of the same examples, with the same weights.
        n_resamples: How many times the examples are drawn.
        rng: Draws them.

    Returns:
        One array a measurement, of shape (1 + n_resamples,); NaN where it has no value.
    """
    n = len(measurements[0].values)
    if n == 0:
        raise RecordError("a score without examples has no interval; evaluate on at least one")
    given = measurements[0].weights
    weights = np.ones(n) if given is None else np.array(given, dtype=np.float64)
    # equal numbers once, so that what is equal stays equal to the last bit
    unlike = {
        values: row for row, values in enumerate(dict.fromkeys(m.values for m in measurements))
    }
    weighted = np.array([*unlike], dtype=np.float64) * weights  # (k, n)
    means = np.empty((len(unlike), n_resamples))
    step = max(1, _CHUNK // n)
    for start in range(0, n_resamples, step):
        stop = min(start + step, n_resamples)
        drawn = rng.integers(0, n, size=(stop - start, n)) + n * np.arange(stop - start)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(drawn.shape)
        times = counts.T.astype(np.float64)  # (n, resamples): how often each example was drawn
        totals = weights @ times
        totals[totals == 0] = np.nan
        means[:, start:stop] = weighted @ times / totals
    return [
        np.concatenate(([m.value], _transformed(m.metric, means[unlike[m.values]])))
        for m in measurements
    ]


def estimate(sampled: Floats) -> Estimate:
    """Take the first number as the value, and the middle 95 % of the others as the interval.

    Numbers are as `samples` returns them, or computed from such; NaN is left out.
    """
    value, drawn = float(sampled[0]), sampled[1:]
    known = drawn[~np.isnan(drawn)]
    first, last = (float(known.min()), float(known.max())) if known.size else (value, value)
    # sums in another order differ in the last bit
    if first == last or last - first <= 1e-12 * max(abs(first), abs(last)) < math.inf:
        return Estimate(value, value, value)
    n_off = min(math.floor(_TAIL * known.size + 1e-9), (known.size - 1) // 2)
    ranks = n_off, known.size - 1 - n_off
    # as many off at both ends, and draws rather than blends of two: so there is no inf - inf, and
    # turning a metric over turns its interval over
    low, high = np.partition(known, ranks)[list(ranks)]
    return Estimate(value, float(low), float(high))


def together(sampled: Sequence[Floats]) -> list[Estimate]:
    """Intervals that with 95 % probability all hold at once: sup-t bands.

    Each is ``value +- c * se``, where se is the standard deviation of the draws, and c the 95 %
    quantile of ``max |draw - value| / se`` over all rows (Montiel Olea and Plagborg-Moller 2019,
    https://doi.org/10.1002/jae.2656). What does not vary is a point; what is not finite has no
    limits.

    Args:
        sampled: Differences as `gaps` makes them, drawn together.
    """
    values = np.array([one[0] for one in sampled])
    errors = np.array([one[1:].std() if np.isfinite(one).all() else np.nan for one in sampled])
    errors[errors <= 1e-12 * np.abs(values)] = 0.0  # sums in another order differ in the last bit
    varied = [row for row, error in enumerate(errors) if error > 0]
    if not varied:
        factor = 0.0
    else:
        most = np.zeros(len(sampled[0]) - 1)
        for row in varied:
            np.maximum(most, np.abs(sampled[row][1:] - values[row]) / errors[row], out=most)
        factor = float(np.quantile(most, 1 - 2 * _TAIL, method="higher"))
    return [
        Estimate(v, v - factor * error, v + factor * error)
        if math.isfinite(error)
        else Estimate(v, -math.inf, math.inf)
        for v, error in zip(values.tolist(), errors.tolist(), strict=True)
    ]


def gaps(ours: Floats, theirs: Floats) -> Floats:
    """Differences of samples; two infinite perplexities do not differ."""
    with np.errstate(invalid="ignore"):
        return np.where(ours == theirs, 0.0, ours - theirs)


def kept_shares(ours: Floats, reference: Floats, metric: str) -> Floats | None:
    """`gptailor.core.objective.retention` of samples; a positive number by 0 is infinite.

    None where the reference scored 0, the share on all examples is not finite, or the metric is
    no measure of a score (`Metric.relative`).
    """
    if not METRICS[metric].relative:
        return None
    upside_down = not METRICS[metric].higher_is_better or bool(reference[0] < 0)
    above, below = (reference, ours) if upside_down else (ours, reference)
    with np.errstate(divide="ignore", invalid="ignore"):
        shares: Floats = above / below
    finite = np.isfinite(shares[0]) and min(abs(reference[0]), abs(below[0])) > _TINY
    return shares if finite else None


def _transformed(metric: str, means: Floats) -> Floats:
    if METRICS[metric].transform == "identity":
        return means
    return np.where(means < _MAX_LOG, np.exp(np.minimum(means, _MAX_LOG)), np.inf)
