"""What a search starts from: the best of the whole members and of uniform merges."""

from typing import Any

import pytest

from gptailor.core.tailoring import LayerSpec
from gptailor.core.trial import Evaluation, Trial
from gptailor.searchers.evolution import evolution
from gptailor.searchers.searcher import SearchContext, make_searcher
from gptailor.searchers.space import Space

RUNGS = (3, 9, 27)


def first_groups(
    landscape: Any, space: Space, *, max_trials: int, n_groups: int = 2, **options: object
) -> list[list[Trial]]:
    """The first groups of a search that knows the members' scores."""
    context = SearchContext(
        space,
        landscape.objective(RUNGS[-1]),
        RUNGS,
        max_trials,
        seed=0,
        references=landscape.references(space, RUNGS[-1]),
    )
    searcher = make_searcher(evolution, context, options)
    groups = []
    for _ in range(n_groups):
        groups.append(
            [
                Trial(0, each, Evaluation(landscape.scores(each.tailoring, each.n_examples)))
                for each in searcher.ask()
            ]
        )
        searcher.tell(groups[-1])
    return groups


def kept_source(trials: list[Trial]) -> LayerSpec:
    """The sources of all layers of the first candidate, at position 0 or 1."""
    return trials[0].tailoring.layers[0]


def test_the_best_member_is_ablated_where_nothing_can_be_merged(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    space = Space(30, 7, ("code", "math", "world"), tied=True)
    references = landscape.references(space, RUNGS[-1])
    objective = landscape.objective(RUNGS[-1])
    losses = {name: objective.scalar(each, proxy=True) for name, each in references.items()}
    (ablated,) = first_groups(landscape, space, max_trials=100, n_groups=1)
    assert ablated[0].proposal.origin == "ablation of layer 0"
    assert kept_source(ablated).sources[0].member == min(losses, key=losses.__getitem__)


def test_a_merge_better_than_every_member_is_ablated(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    wholes, ablated = first_groups(landscape, landscape.space(), max_trials=200)
    assert {len(trial.tailoring.layers) for trial in wholes} == {30}
    objective = landscape.objective(RUNGS[-1])
    losses = [objective.scalar(trial.scores, proxy=True) for trial in wholes if trial.scores]
    assert min(losses) < min(
        objective.scalar(each, proxy=True)
        for each in landscape.references(landscape.space(), RUNGS[-1]).values()
    )
    best = wholes[losses.index(min(losses))].tailoring
    assert ablated[0].tailoring.layers == best.layers[1:]


@pytest.mark.parametrize("fraction", [0.0, 0.005])
def test_merges_are_left_out_where_they_cost_too_much(
    landscapes: list[Any], fraction: float
) -> None:
    (first,) = first_groups(
        landscapes[0], landscapes[0].space(), max_trials=100, n_groups=1, start_fraction=fraction
    )
    assert first[0].proposal.origin.startswith("ablation")


def test_where_not_all_merges_are_paid_each_method_is_tried_at_one_scale(
    landscapes: list[Any],
) -> None:
    methods = ("task_arithmetic", "ties", "linear")
    space = Space(30, 7, ("code", "math", "world"), methods, tied=True)
    (first,) = first_groups(landscapes[0], space, max_trials=100, n_groups=1, start_fraction=0.03)
    assert {trial.tailoring.layers[0].method for trial in first} == set(methods)
