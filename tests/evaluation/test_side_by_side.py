"""The table of base, variants and result, where a number is too large to be told."""

import json

from gptailor.core.objective import Goal
from gptailor.core.trial import Measurement, Scores
from gptailor.evaluation.side_by_side import Evaluated, table


def of(name: str, *nats: float) -> Evaluated:
    return Evaluated(name, name, 1, Scores({"t": {"perplexity": Measurement("perplexity", nats)}}))


def test_a_perplexity_without_a_number_is_none_and_not_a_score() -> None:
    models = [of("base", 1.0, 2.0), of("math", 800.0, 900.0), of("result", 2.0, 3.0)]
    rows = table(models, [Goal("t", "perplexity")])
    assert json.loads(json.dumps(rows, allow_nan=False)) == rows
    value = {row["model"]: row["value"] for row in rows if row["task"] == "t"}
    assert value["math"] is None
    assert 0 < value["base"] < value["result"]


def test_a_base_without_a_number_leaves_no_share_to_tell() -> None:
    rows = table([of("base", 800.0), of("result", 900.0)], [Goal("t", "perplexity")])
    assert [row["retention"] for row in rows] == [None, None]
    assert {row["task"] for row in rows} == {"t"}
