"""Probes: how many, of what, and which cuts they lead to."""

from typing import Any

import pytest

from gptailor.core.trial import Proposal, Trial
from gptailor.searchers.evolution import Evolution
from gptailor.searchers.space import Space, kept_positions

RUNGS = (3, 9, 27)


def groups(landscape: Any, space: Space, **options: object) -> list[list[Trial]]:
    objective = landscape.objective(RUNGS[-1])
    searcher = Evolution(space=space, objective=objective, rungs=RUNGS, seed=0, **options)  # type: ignore[arg-type]
    told: list[list[Trial]] = []
    while group := searcher.ask():
        trials = [
            Trial(0, each, landscape.scores(each.tailoring, each.n_examples)) for each in group
        ]
        told.append(trials)
        searcher.tell(trials)
    return told


def is_probe(proposal: Proposal) -> bool:
    return proposal.origin.startswith("probe")


@pytest.mark.parametrize(("max_trials", "sizes"), [(30, []), (60, [30, 15]), (80, [30, 15, 13])])
def test_probes_take_their_share_of_the_budget_and_no_more(
    landscapes: list[Any], max_trials: int, sizes: list[int]
) -> None:
    told = groups(landscapes[0], landscapes[0].space(), max_trials=max_trials)
    probed = [group for group in told if is_probe(group[0].proposal)]
    assert [len(group) for group in probed] == sizes
    assert all(trial.proposal.n_examples == 3 for group in probed for trial in group)


def test_the_first_seed_cuts_the_layers_that_were_missed_least(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    told = groups(landscape, landscape.space(), max_trials=45)
    probes, seeds = told[0], told[1]
    objective = landscape.objective(RUNGS[-1])
    losses = {
        trial.proposal.origin: objective.scalar(trial.scores, proxy=True)
        for trial in probes
        if trial.scores is not None
    }
    least = sorted(losses, key=losses.__getitem__)[:7]
    cuts = set(range(30)) - set(kept_positions(seeds[0].tailoring))
    assert {f"probe of layer {layer}" for layer in cuts} == set(least)


@pytest.mark.slow
def test_no_probes_where_they_are_not_wanted_or_not_allowed(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    told = groups(landscape, landscape.space(), max_trials=60, probes=0.0)
    assert not any(is_probe(trial.proposal) for group in told for trial in group)
    exact = Space(30, 7, allowed=lambda tailoring: len(tailoring.layers) == 23)
    told = groups(landscape, exact, max_trials=60)
    assert all(len(trial.tailoring.layers) == 23 for group in told for trial in group)
