"""Successive halving: which candidates go on, which are asked again, which metric ranks them."""

import math

import pytest

from gptailor.core.objective import Goal, Objective
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.core.trial import Evaluation, Measurement, Proposal, Scores, Trial
from gptailor.searchers.halving import Judge, SuccessiveHalving
from gptailor.searchers.history import History, first_examples
from gptailor.searchers.searcher import SearchContext
from gptailor.searchers.space import Space

RUNGS = (2, 4)
PARENT, GOOD, FAIR, BAD = (Tailoring((LayerSpec.of(f"base:{layer}"),)) for layer in range(4))


def scored(bits: float, right: float = 0.5, n: int = 4) -> Scores:
    values = tuple(bits + 0.01 * example for example in range(n))
    accs = tuple(right for _ in range(n))
    return Scores(
        {
            "t": {
                "acc": Measurement("acc", accs),
                "gold_bits_per_byte": Measurement("gold_bits_per_byte", values),
            }
        }
    )


def search(*trials: Trial) -> SearchContext:
    """What a search is about that was told some trials."""
    objective = Objective([Goal("t", "acc")], scored(1.0))
    context = SearchContext(Space(4, 3), objective, RUNGS, max_trials=99, seed=0)
    context.history.add(trials)
    return context


def told(tailoring: Tailoring, n: int, scores: Scores | None) -> Trial:
    failure = "out of memory" if scores is None else None
    return Trial(0, Proposal(tailoring, n), Evaluation(scores, failure))


def test_low_rungs_rank_by_the_proxy_and_the_last_by_the_users_metric() -> None:
    context = search(told(GOOD, 2, scored(1.0, 0.1, 2)), told(BAD, 2, scored(2.0, 0.9, 2)))
    assert Judge(context).ranked([BAD, GOOD], 2) == [GOOD, BAD]
    context.history.add([told(GOOD, 4, scored(1.0, 0.1)), told(BAD, 4, scored(2.0, 0.9))])
    assert Judge(context).ranked([BAD, GOOD], 4) == [BAD, GOOD]


def test_equals_on_the_last_rung_are_told_apart_by_the_proxy() -> None:
    context = search(told(GOOD, 4, scored(1.0)), told(BAD, 4, scored(2.0)))
    assert Judge(context).ranked([BAD, GOOD], 4) == [GOOD, BAD]


def test_near_equals_are_told_apart_by_the_proxy_within_their_error() -> None:
    def with_accs(bits: float, accs: tuple[float, ...]) -> Scores:
        measured = scored(bits).tasks["t"]["gold_bits_per_byte"]
        return Scores({"t": {"acc": Measurement("acc", accs), "gold_bits_per_byte": measured}})

    context = search(
        told(GOOD, 4, with_accs(1.0, (1, 1, 0, 0))), told(BAD, 4, with_accs(2.0, (0, 1, 1, 1)))
    )
    assert Judge(context, tie_z=0.0).ranked([GOOD, BAD], 4) == [BAD, GOOD]
    assert Judge(context, tie_z=1.0).ranked([GOOD, BAD], 4) == [GOOD, BAD]


def test_only_those_with_scores_are_ranked() -> None:
    context = search(told(GOOD, 2, scored(1.0, n=2)), told(BAD, 2, None))
    assert Judge(context).ranked([BAD, GOOD, FAIR], 2) == [GOOD]


def test_many_examples_tell_what_few_would_have_said() -> None:
    history = History()
    history.add([told(PARENT, 4, scored(1.0))])
    assert history.scores(PARENT, 2) == first_examples(scored(1.0), 2) == scored(1.0, n=2)
    assert history.scores(GOOD, 2) is None


def run(
    bits: dict[Tailoring, float],
    context: SearchContext,
    *,
    keep_fraction: float,
    parent: Tailoring | None = None,
) -> list[list[tuple[Tailoring, int]]]:
    candidates = [(tailoring, "test") for tailoring in bits if tailoring != PARENT]
    halving = SuccessiveHalving(context, keep_fraction, drop_z=1.0)
    proposals = halving.run(candidates, Judge(context), parent=parent)
    asked = []
    try:
        group = next(proposals)
        while True:
            asked.append([(each.tailoring, each.n_examples) for each in group])
            trials = tuple(
                told(
                    each.tailoring, each.n_examples, scored(bits[each.tailoring], n=each.n_examples)
                )
                for each in group
            )
            context.history.add(trials)
            group = proposals.send(trials)
    except StopIteration:
        return asked


def test_the_best_fraction_goes_on() -> None:
    asked = run({GOOD: 1.0, FAIR: 1.5, BAD: 2.0}, search(), keep_fraction=1 / 3)
    assert asked == [[(GOOD, 2), (FAIR, 2), (BAD, 2)], [(GOOD, 4)]]


def test_the_parent_is_asked_beside_its_children_only_where_it_was_not_tried() -> None:
    bits = {PARENT: 1.2, GOOD: 1.0}
    assert run(bits, search(), keep_fraction=1.0, parent=PARENT) == [
        [(GOOD, 2), (PARENT, 2)],
        [(GOOD, 4), (PARENT, 4)],
    ]
    context = search(told(PARENT, 4, scored(1.2)))
    assert run(bits, context, keep_fraction=1.0, parent=PARENT) == [[(GOOD, 2)], [(GOOD, 4)]]


def test_children_surely_worse_than_their_parent_do_not_go_on() -> None:
    context = search(told(PARENT, 4, scored(1.0)))
    assert run({GOOD: 0.9, BAD: 3.0}, context, keep_fraction=1.0, parent=PARENT) == [
        [(GOOD, 2), (BAD, 2)],
        [(GOOD, 4)],
    ]
    assert run({BAD: 3.0, FAIR: 2.0}, context, keep_fraction=1.0, parent=PARENT) == [
        [(BAD, 2), (FAIR, 2)]
    ]


@pytest.mark.parametrize("keep_fraction", [0.2, 1 / 3, 0.5, 1.0])
@pytest.mark.parametrize("n_trials", [1, 2, 5, 13, 40])
def test_as_many_start_as_can_end_within_the_budget(keep_fraction: float, n_trials: int) -> None:
    def asked(n: int) -> int:
        return n + max(1, math.ceil(n * keep_fraction - 1e-9))

    halving = SuccessiveHalving(search(), keep_fraction)
    first, size = halving.bracket(n_trials, 1000)
    if n_trials == 1:
        assert (first, size) == (1, 1)
    else:
        assert first == 0
        assert asked(size) <= n_trials < asked(size + 1)
    assert halving.bracket(n_trials, 1) == (first, 1)
