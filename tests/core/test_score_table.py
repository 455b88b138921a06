"""The table of scores: shares of the base's score, and numbers too large for JSON."""

import json

import pytest

from gptailor.core.statistics import bootstrap_interval, retention_interval, score_table
from gptailor.core.trial import Measurement, Scores
from gptailor.errors import RecordError


def nats(*values: float) -> Scores:
    return Scores({"t": {"perplexity": Measurement("perplexity", values)}})


def test_a_row_holds_the_interval_and_the_share_of_the_base() -> None:
    ours, base = (Measurement("acc", (1.0, 0.0, x, 1.0)) for x in (0.0, 1.0))
    models = {"base": Scores({"t": {"acc": base}}), "result": Scores({"t": {"acc": ours}})}
    table = score_table(models, {"t": "acc", "other": "acc"}, n_resamples=100)
    row = table.row("result", "t")
    assert row is not None
    assert row.score == bootstrap_interval(ours, n_resamples=100)
    assert row.retention == retention_interval(ours, base, n_resamples=100)
    assert table.averages["result"] == row.retention
    assert table.averages["base"].value == 1.0
    assert table.models == ("base", "result")
    assert [each.task for each in table.tasks] == ["t"]
    assert table.row("math", "t") is None


def test_a_perplexity_without_a_number_is_none_in_json_and_not_a_score() -> None:
    models = {"base": nats(1.0, 2.0), "math": nats(800.0, 900.0), "result": nats(2.0, 3.0)}
    rows = [row.to_plain() for row in score_table(models, {"t": "perplexity"}).rows]
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    value = {row["model"]: row["value"] for row in rows}
    assert value["math"] is None
    assert 0 < value["base"] < value["result"]


def test_a_base_without_a_number_leaves_no_share() -> None:
    table = score_table({"base": nats(800.0), "result": nats(900.0)}, {"t": "perplexity"})
    assert [row.retention for row in table.rows] == [None, None]
    assert table.averages == {}


def test_models_measured_on_other_examples_are_refused() -> None:
    models = {"base": nats(1.0, 2.0), "math": nats(1.0)}
    with pytest.raises(RecordError, match=r"task 't', 'math' and 'base': .*same examples"):
        score_table(models, {"t": "perplexity"})
