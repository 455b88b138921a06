"""How examples add up to a metric."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptailor.core.metrics import METRICS, Metric, MetricRegistry, aggregate
from gptailor.errors import ConfigError

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


# -- metrics from outside


def counting(**facts: Any) -> Metric:
    return Metric(True, "a count", measure=lambda one: float(len(one.texts)), **facts)


def test_a_metric_is_added_from_python_and_then_aggregates() -> None:
    registry = MetricRegistry({"acc": METRICS["acc"]})
    registry.add("count", counting(transform="exp"))
    assert registry["count"].transform == "exp"
    assert registry.names[:2] == ("acc", "count")
    assert registry.load("count") is registry["count"]


@pytest.mark.parametrize("plugin", [5, len, Metric(True, "nothing is measured")])
def test_what_measures_nothing_is_no_metric(plugin: Any) -> None:
    with pytest.raises(ConfigError, match="'odd' must be a gptailor Metric with a measure"):
        MetricRegistry({}).add("odd", plugin)


def test_a_built_in_name_is_not_taken() -> None:
    with pytest.raises(ConfigError, match="metric 'acc' is built in; use another name"):
        METRICS.add("acc", counting())


def test_a_proxy_must_be_known() -> None:
    with pytest.raises(ConfigError, match="unknown metric 'margn'"):
        MetricRegistry({}).add("count", counting(proxy="margn"))


def test_a_recorded_metric_is_read_without_its_code_and_not_measured() -> None:
    facts = MetricRegistry({})
    facts.add("mine:count", counting(transform="exp"))
    plain = facts.facts(["mine:count"])["mine:count"]
    assert plain == {"higher_is_better": True, "meaning": "a count", "transform": "exp"}
    reader = MetricRegistry({"acc": METRICS["acc"]})
    assert "mine:count" not in reader
    reader.remember("mine:count", Metric(**plain))
    assert "mine:count" in reader
    assert "mine:count" not in reader.names
    assert reader["mine:count"].transform == "exp"
    assert reader["mine:count"].measure is None


def test_a_record_does_not_change_what_a_known_metric_means() -> None:
    for name in ("acc", "count"):
        registry = MetricRegistry({"acc": METRICS["acc"]})
        registry.add("count", counting())
        with pytest.raises(ConfigError, match=f"the metric '{name}' of the record is not the one"):
            registry.remember(name, Metric(False, "upside down"))


def test_a_module_is_imported_by_load_alone(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "my_count.py").write_text(
        "from gptailor.core.metrics import Metric\n"
        "count = Metric(True, 'a count', measure=lambda one: 1.0)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    registry = MetricRegistry({})
    assert "my_count:count" not in registry
    with pytest.raises(ConfigError):
        registry["my_count:count"]
    assert "my_count" not in sys.modules
    assert registry.load("my_count:count").meaning == "a count"
    assert registry["my_count:count"].measure is not None


def test_a_filtered_metric_keeps_its_proxy_when_a_record_is_read() -> None:
    name = "exact_match,strict-match"
    registry = MetricRegistry(METRICS.builtin)
    assert registry.facts([name, "exact_match"]) == {}
    registry.remember(name, Metric(True, "of an older record"))
    assert registry[name] == registry.load(name) == METRICS["exact_match"]
    assert registry[name].proxy == "gold_bits_per_byte"
