"""Intervals against the slow way, and where there is nothing to draw from."""

import math

import numpy as np
import pytest
from intervals import average_retention, bootstrap_interval, paired_difference, retention_interval

from gptailor.core.metrics import METRICS, aggregate
from gptailor.core.objective import retention
from gptailor.core.statistics import Estimate, kept_shares, together
from gptailor.core.trial import Measurement
from gptailor.errors import RecordError


def measured(
    metric: str, n: int, seed: int, weights: tuple[float, ...] | None = None
) -> Measurement:
    rng = np.random.default_rng(seed)
    if metric.startswith("acc"):
        return Measurement(metric, tuple(float(x) for x in rng.random(n) < 0.6), weights)
    sign = -1.0 if metric == "choice_logprob" else 1.0
    return Measurement(metric, tuple(float(sign * x) for x in rng.gamma(5.0, 0.3, n)), weights)


def drawn(measurement: Measurement, examples: np.ndarray) -> float:
    """The metric on a list of examples, by the house's own sum."""
    weights = measurement.weights
    return aggregate(
        measurement.metric,
        [measurement.values[i] for i in examples],
        None if weights is None else [weights[i] for i in examples],
    )


@pytest.mark.parametrize("metric", METRICS.builtin)
@pytest.mark.parametrize("weights", [None, tuple(float(1 + i % 3) for i in range(20))])
def test_limits_are_those_of_draws_made_one_by_one(
    metric: str, weights: tuple[float, ...] | None
) -> None:
    ours, theirs = measured(metric, 20, 1, weights), measured(metric, 20, 2, weights)
    indices = np.random.default_rng(3).integers(0, 20, size=(400, 20))

    def limits(numbers: list[float]) -> list[float]:
        kept = sorted(numbers)[10:-10]  # 2.5% of 400 off at both ends
        return [kept[0], kept[-1]]

    slow_ours = [drawn(ours, row) for row in indices]
    slow_theirs = [drawn(theirs, row) for row in indices]
    pairs = list(zip(slow_ours, slow_theirs, strict=True))
    interval = bootstrap_interval(ours, n_resamples=400, seed=3)
    difference = paired_difference(ours, theirs, n_resamples=400, seed=3)
    kept = retention_interval(ours, theirs, n_resamples=400, seed=3)
    assert [interval.low, interval.high] == pytest.approx(limits(slow_ours))
    assert [difference.low, difference.high] == pytest.approx(limits([a - b for a, b in pairs]))
    assert difference.value == pytest.approx(ours.value - theirs.value)
    if not METRICS[metric].relative:
        assert kept is None
        return
    assert kept is not None
    ratios = [retention(a, b, metric) for a, b in pairs]
    assert [kept.low, kept.high] == pytest.approx(limits(ratios))
    assert kept.value == pytest.approx(retention(ours.value, theirs.value, metric))


def test_the_limits_hold_the_truth_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(300):
        values = tuple(float(x) for x in rng.random(60) < 0.7)
        limits = bootstrap_interval(Measurement("acc", values), n_resamples=400, seed=trial)
        held += limits.low <= 0.7 <= limits.high
    assert 0.91 <= held / 300 <= 0.98


def test_equal_models_differ_by_nothing_and_keep_all() -> None:
    ours = measured("acc", 30, 0)
    difference, kept = paired_difference(ours, ours), retention_interval(ours, ours)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert kept is not None
    assert (kept.value, kept.low, kept.high) == (1, 1, 1)
    assert kept.is_point


def test_pairing_narrows_the_difference_of_models_that_agree() -> None:
    theirs = measured("acc", 200, 0)
    flipped = (1 - theirs.values[0], *theirs.values[1:])
    difference = paired_difference(Measurement("acc", flipped), theirs)
    alone = bootstrap_interval(theirs)
    assert difference.high - difference.low < (alone.high - alone.low) / 4


def test_the_same_seed_gives_the_same_limits_and_another_seed_others() -> None:
    ours = measured("gold_bits_per_byte", 40, 0)
    assert bootstrap_interval(ours, seed=1) == bootstrap_interval(ours, seed=1)
    assert bootstrap_interval(ours, seed=1) != bootstrap_interval(ours, seed=2)


@pytest.mark.parametrize("values", [(1.0,), (0.3,) * 7])
def test_without_spread_the_interval_is_a_point_and_says_so(values: tuple[float, ...]) -> None:
    weights = tuple(0.1 + i for i in range(len(values)))
    limits = bootstrap_interval(Measurement("gold_bits_per_byte", values, weights))
    assert limits.is_point
    assert limits.low == pytest.approx(values[0])


def test_a_reference_of_0_leaves_nothing_to_keep() -> None:
    nothing, something = Measurement("acc", (0.0, 0.0)), Measurement("acc", (1.0, 0.0))
    assert retention_interval(something, nothing) is None
    kept = average_retention([(something, nothing), (something, something)])
    assert kept is not None
    assert kept.value == 1.0
    assert not math.isnan(kept.low)
    assert not math.isnan(kept.high)


def test_a_reference_that_is_nearly_0_bounds_nothing_from_above() -> None:
    reference = Measurement("acc", (1.0, 0.0, 0.0, 0.0))
    kept = retention_interval(Measurement("acc", (0.0, 1.0, 0.0, 0.0)), reference)
    assert kept is not None
    assert (kept.value, kept.low, kept.high) == (1.0, 0.0, math.inf)


def test_infinite_perplexities_never_become_nan() -> None:
    broken = Measurement("word_perplexity", (900.0, 1.0, 900.0))
    fine = Measurement("word_perplexity", (2.0, 2.5, 3.0))
    assert bootstrap_interval(broken).high == math.inf
    assert paired_difference(broken, broken).value == 0
    worse = paired_difference(broken, fine)
    assert worse.high == math.inf
    assert not math.isnan(worse.low)
    kept = retention_interval(broken, fine)
    assert kept is not None
    assert kept.value < 1e-200
    assert kept.low == 0


def test_the_worse_log_probability_keeps_less_than_all() -> None:
    ours, base = Measurement("choice_logprob", (-2.0,)), Measurement("choice_logprob", (-1.0,))
    kept = retention_interval(ours, base)
    assert kept is not None
    assert kept.value == 0.5


def test_the_average_weighs_every_task_the_same() -> None:
    small = (Measurement("acc", (1.0, 0.0)), Measurement("acc", (1.0, 1.0)))
    large = (measured("acc", 500, 0),) * 2
    kept = average_retention([small, large], n_resamples=500)
    assert kept is not None
    assert kept.value == pytest.approx(0.75)


def test_other_examples_or_weights_are_refused_with_a_sentence() -> None:
    short, long = measured("acc", 3, 0), measured("acc", 4, 0)
    with pytest.raises(RecordError, match="not measured on the same examples"):
        paired_difference(short, long)
    with pytest.raises(RecordError, match="weights differ"):
        paired_difference(short, Measurement("acc", short.values, (1.0, 2.0, 3.0)))
    with pytest.raises(RecordError, match="can't be compared with"):
        paired_difference(short, measured("gold_bits_per_byte", 3, 0))
    with pytest.raises(RecordError, match="without examples"):
        bootstrap_interval(Measurement("acc", ()))


def test_an_interval_tells_whether_it_is_a_point() -> None:
    assert Estimate(0.5, 0.5, 0.5).is_point
    assert not Estimate(0.55, 0.5, 0.6).is_point


def test_bands_hold_all_values_at_once_in_nineteen_of_twenty_draws() -> None:
    draws = np.random.default_rng(0).normal(size=(30, 2001)) * np.arange(1, 31)[:, None]
    draws[:, 0] = 0.0
    bands = together(list(draws))
    inside = [
        all(one.low <= value <= one.high for one, value in zip(bands, draw, strict=True))
        for draw in draws.T[1:]
    ]
    assert sum(inside) / 2000 == pytest.approx(0.95, abs=0.001)
    widths = [
        (one.high - one.value) / row.std() for one, row in zip(bands, draws[:, 1:], strict=True)
    ]
    assert widths == pytest.approx([widths[0]] * 30)  # alike in standard errors
    assert 2.5 < widths[0] < 4.0  # more than 1.96, as 30 are looked at


def test_a_band_of_what_never_varies_is_a_point_and_of_the_infinite_has_no_limits() -> None:
    varied = np.random.default_rng(0).normal(size=401)
    point, alone, endless = together([np.full(401, 0.5), varied, np.full(401, np.inf)])
    assert point == Estimate(0.5, 0.5, 0.5)
    assert [alone] == together([varied])
    assert endless == Estimate(np.inf, -np.inf, np.inf)


def test_a_draw_below_0_does_not_turn_a_share_upside_down() -> None:
    shares = kept_shares(np.array([0.06, 0.05]), np.array([0.09, -0.01]), "acc")
    assert shares is not None
    assert shares[0] == pytest.approx(retention(0.06, 0.09, "acc")) == pytest.approx(2 / 3)
