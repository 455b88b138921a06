"""What is asked of an evaluation and what comes back."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Measurement, Proposal, Scores, Trial

TAILORING = Tailoring.whole("base", 3)
PROPOSAL = Proposal(TAILORING, 9, origin="swap of 3f2a")
SCORES = Scores({"capitals": {"acc": Measurement("acc", (1.0, 0.0, 1.0))}})

numbers = st.floats(allow_nan=False, allow_infinity=False, width=64)
measurements = st.builds(
    lambda pairs, weighted: Measurement(
        "acc",
        tuple(value for value, _ in pairs),
        tuple(weight for _, weight in pairs) if weighted else None,
    ),
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0.01, 100)), min_size=1, max_size=9),
    st.booleans(),
)


def through_json(plain: object) -> object:
    return json.loads(json.dumps(plain, allow_nan=False))


@given(measurements)
def test_a_measurement_reads_back_equal(measurement: Measurement) -> None:
    assert Measurement.from_plain("acc", through_json(measurement.to_plain())) == measurement


@given(measurements, measurements)
def test_scores_read_back_equal(one: Measurement, other: Measurement) -> None:
    scores = Scores({"capitals": {"acc": one}, "math": {"acc": other}})
    assert Scores.from_plain(through_json(scores.to_plain())) == scores


@given(st.floats(0, 1e5), st.integers(0, 2**60))
def test_a_complete_trial_reads_back_equal(seconds: float, layer_tokens: int) -> None:
    trial = Trial(3, PROPOSAL, scores=SCORES, seconds=round(seconds, 4), layer_tokens=layer_tokens)
    assert Trial.from_plain(through_json(trial.to_plain())) == trial


def test_a_failed_trial_reads_back_equal_and_has_no_scores() -> None:
    trial = Trial(3, PROPOSAL, failure="out of memory", seconds=1.5)
    back = Trial.from_plain(through_json(trial.to_plain()))
    assert back == trial
    assert back.scores is None
    assert not back.complete


@pytest.mark.parametrize(
    "both_or_none", [{}, {"scores": SCORES, "failure": "out of memory"}], ids=["none", "both"]
)
def test_there_is_a_score_or_a_failure_and_never_both(both_or_none: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        Trial(0, PROPOSAL, **both_or_none)  # type: ignore[arg-type]  # the point of the test


def test_a_proposal_reads_back_equal() -> None:
    assert Proposal.from_plain(through_json(PROPOSAL.to_plain())) == PROPOSAL


def test_an_infinite_value_is_null_in_json_and_infinite_again_when_read() -> None:
    measurement = Measurement("byte_perplexity", (1e6,))
    plain = through_json(measurement.to_plain())
    assert isinstance(plain, dict)
    assert plain["value"] is None
    assert Measurement.from_plain("byte_perplexity", plain).value == float("inf")


def test_scores_count_the_examples_of_the_task_that_has_most() -> None:
    more = SCORES.tasks | {"math": {"acc": Measurement("acc", (1.0,) * 5)}}  # type: ignore[operator]  # dicts
    assert Scores(more).n_examples == 5
    assert Scores().n_examples == 0


@pytest.mark.parametrize("thing", [PROPOSAL, SCORES, Trial(0, PROPOSAL, scores=SCORES)])
def test_facts_do_not_change(thing: object) -> None:
    name = dataclasses.fields(thing)[0].name  # type: ignore[arg-type]  # all are dataclasses
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, name, None)
