"""How examples add up to a metric."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptailor.core.metrics import METRICS, aggregate

numbers = st.floats(-50, 50)


@given(st.lists(numbers, min_size=1, max_size=30), st.data())
@pytest.mark.parametrize("name", METRICS.builtin)
def test_a_metric_is_a_weighted_mean_put_through_its_transform(
    name: str, values: list[float], data: st.DataObject
) -> None:
    size = len(values)
    weights = data.draw(st.lists(st.floats(0.1, 9), min_size=size, max_size=size))
    mean = np.average(values, weights=weights)
    told = math.exp(mean) if METRICS[name].transform == "exp" else mean
    assert aggregate(name, values, weights) == pytest.approx(told, rel=1e-9, abs=1e-9)


@given(st.lists(numbers, min_size=1, max_size=30))
@pytest.mark.parametrize("name", METRICS.builtin)
def test_equal_weights_are_no_weights(name: str, values: list[float]) -> None:
    told = aggregate(name, values, [2.0] * len(values))
    assert aggregate(name, values) == pytest.approx(told, rel=1e-9, abs=1e-9)


def test_accuracy_is_the_share_answered_right() -> None:
    assert aggregate("acc", [1.0, 0.0, 1.0, 1.0]) == 0.75


def test_perplexity_is_exp_of_nats_per_word() -> None:
    assert aggregate("word_perplexity", [math.log(8.0), math.log(2.0)], [1, 3]) == pytest.approx(
        2 ** (6 / 4)
    )


def test_a_perplexity_beyond_all_numbers_is_infinite() -> None:
    assert aggregate("byte_perplexity", [1e6]) == math.inf


@pytest.mark.parametrize("name", [name for name in METRICS.builtin if METRICS[name].proxy])
def test_a_proxy_is_a_metric_whose_examples_add_up_plainly(name: str) -> None:
    proxy = METRICS[METRICS[name].proxy or ""]
    assert proxy.transform == "identity"
    assert proxy.proxy is None


@pytest.mark.parametrize("name", METRICS.builtin)
def test_every_metric_says_in_a_line_what_it_is(name: str) -> None:
    assert METRICS[name].meaning
