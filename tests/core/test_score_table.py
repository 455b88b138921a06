"""The table of scores: shares of the base's score, and numbers too large for JSON."""

import json

import numpy as np
import pytest
from intervals import bootstrap_interval, paired_difference, retention_interval

from gptailor.core.score_table import score_table
from gptailor.core.statistics import Estimate
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


def right(n_right: int, n: int = 40, metric: str = "acc") -> Scores:
    return Scores({"t": {metric: Measurement(metric, (1.0,) * n_right + (0.0,) * (n - n_right))}})


def test_the_share_above_chance_leaves_out_what_a_guess_scores() -> None:
    models = {"base": right(30), "result": right(20)}
    table = score_table(models, {"t": "acc"}, chances={"t": (0.25,)}, n_resamples=400)
    row = table.row("result", "t")
    assert row is not None
    assert row.chance == 0.25
    assert row.retention is not None
    assert row.retention.value == pytest.approx(0.5 / 0.75)
    share = row.of_base
    assert share is not None
    assert share.above_chance is not None
    assert share.above_chance.value == pytest.approx((0.5 - 0.25) / (0.75 - 0.25))
    examples = np.random.default_rng(0).integers(0, 40, size=(400, 40))
    slow = sorted((sum(d < 20) / 40 - 0.25) / (sum(d < 30) / 40 - 0.25) for d in examples)
    limits = [share.above_chance.low, share.above_chance.high]
    assert limits == pytest.approx([slow[10], slow[-11]])
    base = table.means["base"].of_base
    assert base is not None
    assert base.above_chance == Estimate(1.0, 1.0, 1.0)


def test_chance_is_that_of_each_question_weighed_as_its_number() -> None:
    chance, weights = (0.5, 0.2, 0.25, 0.25), (1.0, 3.0, 2.0, 4.0)
    measured = [Measurement("acc_norm", v, weights) for v in ((1.0,) * 4, (1.0, 1.0, 0.0, 1.0))]
    models = {
        name: Scores({"t": {"acc_norm": one}})
        for name, one in zip(("base", "result"), measured, strict=True)
    }
    row = score_table(models, {"t": "acc_norm"}, chances={"t": chance}).row("result", "t")
    assert row is not None
    assert row.of_base is not None
    assert row.of_base.above_chance is not None
    by_hand = (0.5 * 1 + 0.2 * 3 + 0.25 * 2 + 0.25 * 4) / 10
    assert row.chance == pytest.approx(by_hand)
    assert row.of_base.above_chance.value == pytest.approx((0.8 - by_hand) / (1 - by_hand))


def test_of_a_reference_that_is_not_above_chance_there_is_no_share_above_it() -> None:
    models = {"base": right(12), "result": right(11)}  # 0.3 of 40: 0.25 is within its interval
    row = score_table(models, {"t": "acc"}, chances={"t": (0.25,)}).row("result", "t")
    assert row is not None
    assert row.of_base is not None
    assert row.of_base.at_chance
    assert row.of_base.above_chance is None
    assert row.of_base.kept is not None


@pytest.mark.parametrize(
    ("metric", "chances"),
    [("acc", {}), ("acc", {"t": ()}), ("acc", {"t": (0.5,) * 39}), ("gold_bits_per_byte", None)],
)
def test_where_no_chance_is_known_there_is_no_share_above_it(
    metric: str, chances: dict[str, tuple[float, ...]] | None
) -> None:
    models = {"base": right(30, metric=metric), "result": right(20, metric=metric)}
    given = {"t": (0.25,)} if chances is None else chances
    row = score_table(models, {"t": metric}, chances=given).row("result", "t")
    assert row is not None
    assert row.chance is None
    assert row.of_base is not None
    assert (row.of_base.above_chance, row.of_base.at_chance) == (None, False)


def tasks(**n_right: int) -> Scores:
    """Tasks of 40 examples by how many are right."""
    return Scores({name: right(n).tasks["t"] for name, n in n_right.items()})


def test_shares_are_told_against_the_best_member_too() -> None:
    models = {
        "base": tasks(a=20, b=20),
        "math": tasks(a=30, b=24),
        "code": tasks(a=16, b=32),
        "result": tasks(a=24, b=16),
    }
    chances = {"a": (0.25,), "b": (0.5,)}
    table = score_table(models, {"a": "acc", "b": "acc"}, chances=chances, against="math")
    assert table.best == "math"  # 1.35 of the base on the average, code 1.2
    row, mean = table.row("result", "a"), table.means["result"]
    assert row is not None
    assert row.of_best is not None
    assert row.of_best.member == "math"
    assert row.of_best.kept is not None
    assert row.of_best.kept.value == pytest.approx(0.8)
    assert row.of_best.above_chance is not None
    assert row.of_best.above_chance.value == pytest.approx((0.6 - 0.25) / (0.75 - 0.25))
    assert row.difference == paired_difference(
        models["result"].tasks["a"]["acc"], models["math"].tasks["a"]["acc"]
    )
    assert mean.of_best is not None
    assert mean.of_best.kept is not None
    assert mean.of_best.kept.value == pytest.approx((0.8 + 16 / 24) / 2)
    # one share of the mean scores: (0.5 - 0.375) / (0.675 - 0.375)
    assert mean.of_best.above_chance is not None
    assert mean.of_best.above_chance.value == pytest.approx(0.125 / 0.3)
    own = table.means["math"].of_best
    assert own is not None
    assert own.kept == Estimate(1.0, 1.0, 1.0)


def test_a_base_that_is_the_best_member_is_compared_with_once() -> None:
    table = score_table({"base": right(30), "math": right(20)}, {"t": "acc"})
    assert table.best == "base"
    assert [row.of_best for row in table.rows] == [None, None]
