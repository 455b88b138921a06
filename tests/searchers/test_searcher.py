"""What drives a generator function by ask and tell."""

import dataclasses
from typing import Annotated

import numpy as np
import pytest

from gptailor.core.objective import Goal, Objective
from gptailor.core.params import Range
from gptailor.core.trial import Evaluation, Measurement, Proposal, Scores, Trial
from gptailor.errors import ConfigError
from gptailor.searchers.searcher import (
    ProposalGenerator,
    SearchContext,
    check_options,
    make_searcher,
    member_names,
    rung_index,
)
from gptailor.searchers.space import Space

SPACE = Space(4, 1, ("math",), ("task_arithmetic",))
SCORES = Scores({"t": {"acc": Measurement("acc", (1.0, 0.0))}})


def one_by_one(
    context: SearchContext,
    *,
    rung: Annotated[int, rung_index] = -1,
    member: Annotated[str, member_names] = "base",
    repeats: Annotated[int, Range(1, 3)] = 1,
) -> ProposalGenerator:
    """Ask the same tailoring several times, then another."""
    rng = np.random.default_rng(context.seed)
    while True:
        tailoring = context.space.random(rng)
        for _ in range(repeats):
            (trial,) = yield (Proposal(tailoring, context.rungs[rung], member),)
            assert trial.tailoring == tailoring


def context(max_trials: int = 4) -> SearchContext:
    return SearchContext(SPACE, Objective([Goal("t", "acc")], SCORES), (2, 4), max_trials, seed=0)


def asked(about: SearchContext, options: dict[str, object]) -> list[Proposal]:
    searcher, proposals = make_searcher(one_by_one, about, options), []
    while group := searcher.ask():
        proposals += group
        searcher.tell([Trial(0, proposal, Evaluation(SCORES)) for proposal in group])
    return proposals


def test_one_context_makes_any_number_of_searchers() -> None:
    about = context()
    first = asked(about, {"rung": 0})
    assert first == asked(about, {"rung": 0})
    assert len(first) == about.left == 4
    assert {proposal.n_examples for proposal in first} == {2}


def test_what_was_asked_before_is_answered_from_the_history() -> None:
    assert asked(context(), {"repeats": 3}) == asked(context(), {})


def test_a_group_is_cut_to_the_layer_tokens_that_are_left() -> None:
    def five(context: SearchContext) -> ProposalGenerator:
        while True:
            rng = np.random.default_rng(len(context.history))
            yield tuple(Proposal(SPACE.random(rng), 4, "random") for _ in range(5))

    about = SearchContext(
        SPACE, context().objective, (2, 4), 100, seed=0, layer_tokens=1000, example_tokens=30.0
    )
    searcher = make_searcher(five, about)
    sizes = []
    while group := searcher.ask():  # 0.6 * 30 tokens, 4 examples, 3 layers: 216 expected
        sizes.append(len(group))
        searcher.tell([Trial(0, p, Evaluation(SCORES, layer_tokens=240)) for p in group])
    assert sizes == [4, 1]  # 960 of 1,000 are spent after four: the last one ends it


def test_layer_tokens_end_no_search_without_a_result() -> None:
    def whole_first(about: SearchContext) -> ProposalGenerator:
        for _ in range(2):
            yield (Proposal(about.space.uniform(()), 2), Proposal(about.space.uniform(()), 4))
        for cut in range(4):
            yield (Proposal(about.space.uniform((cut,)), 2),)

    about = dataclasses.replace(context(max_trials=9), layer_tokens=100)
    searcher, sizes = make_searcher(whole_first, about), []
    while group := searcher.ask():
        sizes += [len(proposal.tailoring.layers) for proposal in group]
        trials = [Trial(0, each, Evaluation(SCORES, layer_tokens=90)) for each in group]
        searcher.tell(trials)
    assert sizes == [4, 4, 3]


def test_the_rest_of_a_group_is_asked_before_the_searcher_goes_on() -> None:
    answered = []

    def four(context: SearchContext) -> ProposalGenerator:
        rng = np.random.default_rng(0)
        while True:
            group = tuple(Proposal(SPACE.random(rng), 4, "random") for _ in range(4))
            answered.append(len((yield group)))

    about = SearchContext(
        SPACE, context().objective, (2, 4), 100, seed=0, layer_tokens=1000, example_tokens=90.0
    )
    searcher, sizes = make_searcher(four, about), []
    for _ in range(3):
        group = searcher.ask()  # 648 of 1,000 expected for each at first, and 10 spent
        sizes.append(len(group))
        searcher.tell([Trial(0, p, Evaluation(SCORES, layer_tokens=10)) for p in group])
    assert sizes[:2] == [1, 3]
    assert answered == [4]


def test_all_options_are_checked_at_once_against_what_the_study_has() -> None:
    with pytest.raises(ConfigError) as caught:
        make_searcher(one_by_one, context(), {"rung": 2, "member": "maths", "repeat": 2})
    assert caught.value.problems == (
        "search.options.rung: must be a whole number from -2 to 1, not 2",
        "search.options.member: must be one of base, math, not 'maths'",
        "unknown option of searcher 'repeat'; did you mean 'repeats'? known: rung, member, repeats",
    )
    check_options(one_by_one, {"rung": -2, "member": "math"}, SPACE, (2, 4))


def test_what_is_no_generator_of_groups_is_refused_with_a_sentence() -> None:
    with pytest.raises(ConfigError, match="must be a generator function"):
        make_searcher(lambda context: (), context())  # type: ignore[arg-type]  # the mistake

    def one(context: SearchContext) -> ProposalGenerator:
        yield Proposal(context.space.random(np.random.default_rng(0)), 2)  # type: ignore[misc]

    with pytest.raises(ConfigError, match="must yield tuples of proposals, not a Proposal"):
        make_searcher(one, context()).ask()
