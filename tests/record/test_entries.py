"""Every entry reads back equal; what a later version adds is passed over."""

import json
from pathlib import Path
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError
from studies import HEADER

from gptailor.core.changes import Change
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Measurement, Proposal, Scores
from gptailor.record.entries import (
    AskedEntry,
    AskedProposal,
    BaselineEntry,
    ChosenEntry,
    Entry,
    ExplainedEntry,
    ForecastEntry,
    ModelEntry,
    OwnTextsEntry,
    ProofEntry,
    RefittedEntry,
    ResumedEntry,
    SlopeEntry,
    SpentEntry,
    TrialEntry,
    TruncatedEntry,
    WrittenEntry,
    read_entry,
)
from gptailor.record.evaluation_file import EvaluatedModel, EvaluationFile, read_evaluation

TAILORING = Tailoring.whole("base", 3)
PROPOSAL = Proposal(TAILORING, 9, origin="swap of 3f2a")
SCORES = Scores({"capitals": {"acc": Measurement("acc", (1.0, 0.0, 1.0))}})
SCORED = Evaluation(SCORES, seconds=1.23456, layer_tokens=7)
COSTS = {"n_trials": 3, "n_candidates": 2, "layer_tokens": 9, "seconds": 1.5, "peak_bytes": 4}
ENTRIES: list[Entry] = [
    HEADER,
    ForecastEntry(**COSTS, shared=0.5, family_bytes=1, merged_bytes=2),
    SpentEntry(**COSTS),
    ModelEntry.of("reference", "base", "0" * 16, SCORED),
    ModelEntry.of("finalist", 0, "1" * 16, Evaluation(failure="out of memory")),
    ModelEntry.of("test", 0, "1" * 16, SCORED),
    AskedEntry(proposals=(AskedProposal.of(0, PROPOSAL),)),
    SlopeEntry(step=3, loss=4.5, slopes=((0.25, -0.5), (0.0, 1e-7)), seconds=1.5, layer_tokens=120),
    BaselineEntry(
        name="sleb",
        member="base",
        tailoring=PROPOSAL.tailoring,
        seconds=1.0,
        layer_tokens=5,
        alone_layer_tokens=9,
    ),
    TrialEntry.of(0, SCORED, 3.00049),
    ResumedEntry(time="2026", elapsed=1.0),
    TruncatedEntry(dropped_bytes=7),
    RefittedEntry(number=0, searched=Tailoring.whole("base", 2), calibration="0" * 16),
    ChosenEntry(number=0, n_tried=1, n_trials=2, reason="best", guard="trial 1", guard_cost=0.25),
    ExplainedEntry.of("0" * 16, Change("taken", 1, "math", TAILORING), SCORED),
    OwnTextsEntry(member="math", texts=(((1, 2), (3, 4), (1,)), ((5,), (6,), ()))),
    WrittenEntry.of("base", "0" * 16, SCORED),
    WrittenEntry.of(0, "1" * 16, Evaluation(failure="out of memory")),
    ProofEntry(
        tailoring="0" * 16,
        device="cpu",
        dtype="float32",
        sizes={"parameters": (3, 2)},
        rates={"generation": ((1.0, 1.5), (2.0, 2.5))},
    ),
]

measurements = st.builds(
    lambda pairs, weighted: Measurement(
        "acc",
        tuple(value for value, _ in pairs),
        tuple(weight for _, weight in pairs) if weighted else None,
    ),
    st.lists(st.tuples(st.floats(-1e9, 1e9), st.floats(0.01, 100)), min_size=1, max_size=9),
    st.booleans(),
)


def read(entry: Entry) -> Entry | None:
    return read_entry(json.loads(entry.to_line()))


def test_every_kind_of_entry_is_tested() -> None:
    assert {type(entry) for entry in ENTRIES} == set(get_args(Entry))


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind)
def test_an_entry_reads_back_equal_and_is_written_again_to_the_byte(entry: Entry) -> None:
    back = read(entry)
    assert back == entry
    assert back is not None
    assert back.to_line() == entry.to_line()
    assert json.loads(entry.to_line()).keys() <= type(entry).model_fields.keys()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.kind)
def test_what_a_later_version_adds_is_passed_over(entry: Entry) -> None:
    assert read_entry(json.loads(entry.to_line()) | {"weather": "fine"}) == entry
    assert read_entry({"kind": "weather", "is": "fine"}) is None


@given(measurements, measurements)
def test_scores_read_back_equal(one: Measurement, other: Measurement) -> None:
    scores = Scores({"capitals": {"acc": one}, "math": {"acc": other}})
    back = read(TrialEntry.of(0, Evaluation(scores), 0.0))
    assert isinstance(back, TrialEntry)
    assert back.scores == scores


@given(st.floats(0, 1e5), st.integers(0, 2**60), st.none() | st.just("out of memory"))
def test_an_evaluation_reads_back_equal(
    seconds: float, layer_tokens: int, failure: str | None
) -> None:
    scores = SCORES if failure is None else None
    evaluation = Evaluation(scores, failure, round(seconds, 4), layer_tokens)
    back = read(TrialEntry.of(3, evaluation, 1.0))
    assert isinstance(back, TrialEntry)
    assert back.evaluation == evaluation


def test_a_proposal_reads_back_equal() -> None:
    back = read(AskedEntry(proposals=(AskedProposal.of(5, PROPOSAL),)))
    assert isinstance(back, AskedEntry)
    assert [each.proposal for each in back.proposals] == [PROPOSAL]


def test_an_infinite_value_is_null_in_json_and_infinite_again_when_read() -> None:
    scores = Scores({"t": {"byte_perplexity": Measurement("byte_perplexity", (1e6,))}})
    entry = TrialEntry.of(0, Evaluation(scores), 0.0)
    assert json.loads(entry.to_line())["scores"]["t"]["byte_perplexity"]["value"] is None
    back = read(entry)
    assert isinstance(back, TrialEntry)
    assert back.scores is not None
    assert back.scores.value("t", "byte_perplexity") == float("inf")


@pytest.mark.parametrize("plain", [{}, {"scores": SCORES, "failure": "out of memory"}])
def test_an_entry_has_scores_or_a_failure_and_never_both(plain: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match="scores or a failure"):
        TrialEntry.model_validate({"number": 0, "elapsed": 1.0, **plain})


def test_an_evaluation_file_reads_back_equal(tmp_path: Path) -> None:
    models = (EvaluatedModel(name="base", path="./base", parameters=9, scores=SCORES),)
    written = EvaluationFile(backend="lm-eval hf", n_resamples=10, versions={}, models=models)
    assert read_evaluation(tmp_path) is None
    written.save(tmp_path)
    assert read_evaluation(tmp_path) == written
