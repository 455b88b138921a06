"""Scores become losses: relative to the base, smaller is better."""

import math

import numpy as np
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from gptailor.core.metrics import METRICS
from gptailor.core.objective import Goal, Objective, retention
from gptailor.core.trial import Measurement, Scores


def scores(**tasks: tuple[str, tuple[float, ...]]) -> Scores:
    return Scores(
        {task: {metric: Measurement(metric, values)} for task, (metric, values) in tasks.items()}
    )


BASE = scores(quiz=("acc", (1.0, 1.0, 1.0, 0.0, 0.0)), text=("bits_per_byte", (1.0, 3.0)))
GOALS = (Goal("quiz", "acc"), Goal("text", "bits_per_byte", weight=3.0))


def test_the_base_itself_has_no_loss() -> None:
    assert Objective(GOALS, BASE).losses(BASE).tolist() == [0.0, 0.0]


def test_a_tenth_of_the_score_lost_is_a_loss_of_a_tenth() -> None:
    worse = scores(quiz=("acc", (0.54,)), text=("bits_per_byte", (2.2,)))
    np.testing.assert_allclose(Objective(GOALS, BASE).losses(worse), [0.1, 0.1])


def test_better_than_the_base_is_below_zero_whichever_way_is_up() -> None:
    better = scores(quiz=("acc", (0.9,)), text=("bits_per_byte", (1.5,)))
    assert (Objective(GOALS, BASE).losses(better) < 0).all()


def test_the_scalar_is_the_weighted_mean_of_the_losses() -> None:
    worse = scores(quiz=("acc", (0.3,)), text=("bits_per_byte", (3.0,)))
    assert Objective(GOALS, BASE).scalar(worse) == pytest.approx((1 * 0.5 + 3 * 0.5) / 4)


def test_few_examples_are_judged_by_the_metric_that_stands_in() -> None:
    goal = Goal("quiz", "acc")
    assert goal.measured(proxy=False) == "acc"
    assert goal.measured(proxy=True) == "gold_bits_per_byte"
    assert Goal("quiz", "acc", proxy="choice_logprob").measured(proxy=True) == "choice_logprob"
    assert Goal("text", "bits_per_byte").measured(proxy=True) == "bits_per_byte"


@pytest.mark.parametrize("metric", METRICS.builtin)
@given(data=st.data())
def test_a_paired_difference_is_the_difference_of_the_scalars(
    metric: str, data: st.DataObject
) -> None:
    values = st.lists(st.floats(0.125, 4.0), min_size=4, max_size=4).map(tuple)
    ours, theirs, base = (data.draw(values, label=who) for who in ("ours", "theirs", "base"))
    objective = Objective((Goal("t", metric),), scores(t=(metric, base)))
    one, other = scores(t=(metric, ours)), scores(t=(metric, theirs))
    gap, error = objective.difference(one, other)
    assert gap == pytest.approx(objective.scalar(one) - objective.scalar(other), abs=1e-9)
    assert error >= 0


def test_only_the_examples_that_both_saw_are_compared() -> None:
    objective = Objective((Goal("quiz", "acc"),), scores(quiz=("acc", (1.0, 1.0))))
    assert objective.is_relative
    few, many = scores(quiz=("acc", (1.0, 0.0))), scores(quiz=("acc", (0.0, 0.0, 1.0, 1.0)))
    assert objective.difference(few, many)[0] == pytest.approx(-0.5)
    assert objective.difference(many, few)[0] == pytest.approx(0.5)


def test_the_weights_are_those_of_the_examples_that_both_saw() -> None:
    """A group weighs by part, so its first examples weigh otherwise than all of them."""
    objective = Objective((Goal("g", "acc"),), scores(g=("acc", (1.0,))))
    few = Scores({"g": {"acc": Measurement("acc", (1.0, 0.0), (3.0, 1.0))}})
    many = Scores({"g": {"acc": Measurement("acc", (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))}})
    assert objective.difference(few, many)[0] == pytest.approx(-0.75)
    assert objective.difference(many, few)[0] == pytest.approx(0.75)


def test_the_standard_error_is_that_of_the_mean_of_the_gaps() -> None:
    ours, theirs = (0.5, 1.0, 2.0, 1.5), (0.25, 1.5, 1.0, 0.5)
    gaps = np.subtract(ours, theirs)
    objective = Objective(
        (Goal("t", "gold_bits_per_byte"),), scores(t=("gold_bits_per_byte", (2.0,)))
    )
    one, other = scores(t=("gold_bits_per_byte", ours)), scores(t=("gold_bits_per_byte", theirs))
    expected = gaps.std(ddof=1) / math.sqrt(4) / 2.0
    assert objective.difference(one, other)[1] == pytest.approx(expected)


def test_models_that_do_not_differ_have_no_error() -> None:
    same = scores(quiz=("acc", (1.0, 0.0)), text=("bits_per_byte", (1.0, 3.0)))
    assert Objective(GOALS, BASE).difference(same, same) == (0.0, 0.0)


def test_a_base_that_scores_nothing_divides_by_something() -> None:
    objective = Objective((Goal("quiz", "acc"),), scores(quiz=("acc", (0.0, 0.0))))
    assert math.isfinite(objective.scalar(scores(quiz=("acc", (1.0, 0.0)))))


@pytest.mark.parametrize("metric", METRICS.builtin)
@given(value=st.floats(0.01, 9.0), reference=st.floats(0.01, 9.0))
def test_retention_is_above_one_where_the_loss_is_below_zero(
    metric: str, value: float, reference: float
) -> None:
    assume(abs(value - reference) > 1e-6)
    if metric == "choice_logprob":  # a log-probability is below 0
        value, reference = -value, -reference
    better = value > reference if METRICS[metric].higher_is_better else value < reference
    assert (retention(value, reference, metric) > 1) == better


def test_retention_of_nothing_is_not_a_number() -> None:
    assert math.isnan(retention(0.5, 0.0, "acc"))
    assert retention(0.45, 0.9, "acc") == pytest.approx(0.5)
    assert retention(2.0, 1.0, "bits_per_byte") == pytest.approx(0.5)


def test_a_base_that_scores_nothing_is_no_unit_to_measure_in() -> None:
    def told(acc: float, apart: float) -> Scores:
        return Scores(
            {
                "a": {"acc": Measurement("acc", (acc, acc))},
                "d": {"divergence": Measurement("divergence", (apart, apart))},
            }
        )

    goals = (Goal("a", "acc"), Goal("d", "divergence"))
    objective = Objective(goals, told(1.0, 0.0))
    assert objective.scalar(told(1.0, 0.5001)) < objective.scalar(told(0.0, 0.5))
    assert objective.losses(told(1.0, 0.25)).tolist() == [0.0, 0.25]


@given(values=st.lists(st.floats(0.0, 3.0), min_size=12, max_size=12))
@example(values=[0.0, 0.0, 1.0, 2.0, 0.0, 1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0])  # equal domains
def test_only_the_worst_domain_counts_and_pairs_agree(values: list[float]) -> None:
    def made(acc: float, *domains: float) -> Scores:
        found = {"a": {"acc": Measurement("acc", (acc, 0.0))}}
        for index, name in enumerate("mc"):
            pair = (domains[2 * index], domains[2 * index + 1])
            found[name] = {"divergence": Measurement("divergence", pair)}
        return Scores(found)

    goals = (
        Goal("a", "acc", weight=2.0),
        Goal("m", "divergence", worst=True),
        Goal("c", "divergence", weight=3.0, worst=True),
    )
    objective = Objective(goals, made(1.0, 2.0, 2.0, 0.0, 0.0))
    ours, theirs = made(1.0, *values[:4]), made(0.5, *values[4:8])
    worst = max(sum(values[:2]) / 2, sum(values[2:4]) / 2)
    assert objective.scalar(ours) == pytest.approx(4 / 6 * worst, abs=1e-9)
    assert not objective.is_relative
    gap, error = objective.difference(ours, theirs)
    assert gap == pytest.approx(objective.scalar(ours) - objective.scalar(theirs), abs=1e-9)
    assert objective.difference(theirs, ours) == pytest.approx((-gap, error), abs=1e-9)
