"""Ablations: how many, of what, and which cuts they lead to."""

from dataclasses import replace
from typing import Any

import pytest

from gptailor.core.trial import Evaluation, Proposal, Trial
from gptailor.searchers.evolution import evolution
from gptailor.searchers.initial_designs import late_blocks
from gptailor.searchers.searcher import SearchContext, make_searcher
from gptailor.searchers.space import Space, kept_positions

RUNGS = (3, 9, 27)


def groups(
    landscape: Any,
    space: Space,
    *,
    max_trials: int,
    earlier: tuple[Trial, ...] = (),
    **options: object,
) -> list[list[Trial]]:
    references = landscape.references(space, RUNGS[-1])
    context = SearchContext(
        space,
        landscape.objective(RUNGS[-1]),
        RUNGS,
        max_trials,
        seed=0,
        references=references,
        earlier=earlier,
    )
    searcher = make_searcher(evolution, context, options)
    told: list[list[Trial]] = []
    while group := searcher.ask():
        trials = [
            Trial(0, each, Evaluation(landscape.scores(each.tailoring, each.n_examples)))
            for each in group
        ]
        told.append(trials)
        searcher.tell(trials)
    return told


def is_ablation(proposal: Proposal) -> bool:
    return proposal.origin.startswith("ablation")


@pytest.mark.parametrize(("max_trials", "sizes"), [(30, []), (60, [30, 15]), (80, [30, 15, 13])])
def test_ablations_take_their_share_of_the_budget_and_no_more(
    landscapes: list[Any], max_trials: int, sizes: list[int]
) -> None:
    told = groups(landscapes[0], landscapes[0].space(), max_trials=max_trials)
    ablated = [group for group in told if is_ablation(group[0].proposal)]
    assert [len(group) for group in ablated] == sizes
    assert all(trial.proposal.n_examples == 3 for group in ablated for trial in group)


def test_the_first_design_cuts_the_layers_whose_absence_cost_least(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    told = groups(landscape, landscape.space(), max_trials=45)
    _, ablations, designs, *_ = told
    objective = landscape.objective(RUNGS[-1])
    losses = {
        trial.proposal.origin: objective.scalar(trial.scores, proxy=True)
        for trial in ablations
        if trial.scores is not None
    }
    least = sorted(losses, key=losses.__getitem__)[:7]
    cuts = set(range(30)) - set(kept_positions(designs[0].tailoring))
    assert {f"ablation of layer {layer}" for layer in cuts} == set(least)


@pytest.mark.slow
def test_no_ablations_where_they_are_not_wanted_or_not_allowed(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    told = groups(landscape, landscape.space(), max_trials=60, ablation_fraction=0.0)
    assert not any(is_ablation(trial.proposal) for group in told for trial in group)
    exact = Space(30, 7, allowed=lambda tailoring: len(tailoring.layers) == 23)
    told = groups(landscape, exact, max_trials=60)
    assert all(len(trial.tailoring.layers) == 23 for group in told for trial in group)


def test_a_deeper_cut_starts_from_the_best_shallower_one_and_asks_nothing_again(
    landscapes: list[Any],
) -> None:
    landscape = landscapes[0]
    earlier = tuple(
        trial for group in groups(landscape, landscape.space(4), max_trials=120) for trial in group
    )
    objective = landscape.objective(RUNGS[-1])
    results = [t for t in earlier if t.proposal.n_examples == RUNGS[-1] and t.scores is not None]
    best = min(objective.scalar(t.scores) for t in results if t.scores is not None)
    tied = [t for t in results if t.scores is not None and objective.scalar(t.scores) <= best + 0.1]
    told = groups(landscape, landscape.space(6), max_trials=60, earlier=earlier)
    first = [trial.tailoring for trial in told[0]]
    assert all(is_ablation(trial.proposal) for trial in told[0])
    assert {len(each.layers) for each in first} == {25}
    common = set.intersection(*(set(range(30)) - set(kept_positions(each)) for each in first))
    assert common in [set(range(30)) - set(kept_positions(each.tailoring)) for each in tied]
    asked = [(t.tailoring, t.proposal.n_examples) for group in told for t in group]
    assert len(asked) == 60
    assert not {(t.tailoring, t.proposal.n_examples) for t in earlier} & set(asked)


def test_one_cut_is_ablated_too(landscapes: list[Any]) -> None:
    told = groups(landscapes[0], landscapes[0].space(1), max_trials=60)
    ablated = [group for group in told if is_ablation(group[0].proposal)]
    assert [len(group) for group in ablated] == [30]


def test_cuts_of_few_ablations_are_used(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    space = replace(landscape.space(3), variants=(), keep=frozenset(range(5, 30)))
    ablations, designs, *_ = groups(landscape, space, max_trials=9)
    assert [is_ablation(trial.proposal) for trial in ablations] == [True] * 5  # too few for a model
    objective = landscape.objective(RUNGS[-1])
    losses = [objective.scalar(trial.scores, proxy=True) for trial in ablations if trial.scores]
    least = set(sorted(range(5), key=losses.__getitem__)[:3])
    assert set(range(30)) - set(kept_positions(designs[0].tailoring)) == least


def test_without_ablations_late_blocks_of_what_was_fitted_are_cut(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    space = landscape.space()
    whole = space.uniform((), space.variants, "linear")  # as if it had been fitted
    told = groups(landscape, replace(space, fitted=whole), max_trials=60, ablation_fraction=0.0)
    designs = {t.tailoring for t in told[1] if t.proposal.origin == "late block"}
    assert space.cut(whole, late_blocks(space)[0]) in designs
