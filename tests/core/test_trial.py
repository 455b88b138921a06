"""What is asked of an evaluation and what comes back."""

import dataclasses

import pytest

from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Measurement, Proposal, Scores, Trial

TAILORING = Tailoring.whole("base", 3)
PROPOSAL = Proposal(TAILORING, 9, origin="swap of 3f2a")
SCORES = Scores({"capitals": {"acc": Measurement("acc", (1.0, 0.0, 1.0))}})


@pytest.mark.parametrize(
    "both_or_none", [{}, {"scores": SCORES, "failure": "out of memory"}], ids=["none", "both"]
)
def test_there_is_a_score_or_a_failure_and_never_both(both_or_none: dict[str, object]) -> None:
    with pytest.raises(AssertionError):
        Evaluation(**both_or_none)  # type: ignore[arg-type]  # the point of the test


def test_scores_count_the_examples_of_the_task_that_has_most() -> None:
    more = SCORES.tasks | {"math": {"acc": Measurement("acc", (1.0,) * 5)}}  # type: ignore[operator]  # dicts
    assert Scores(more).n_examples == 5
    assert Scores().n_examples == 0


@pytest.mark.parametrize("thing", [PROPOSAL, SCORES, Trial(0, PROPOSAL, Evaluation(SCORES))])
def test_facts_do_not_change(thing: object) -> None:
    name = dataclasses.fields(thing)[0].name  # type: ignore[arg-type]  # all are dataclasses
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(thing, name, None)
