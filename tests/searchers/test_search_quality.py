"""On a landscape shaped like a real one, the default search earns its place."""

from typing import Any

import numpy as np
import pytest

from gptailor.core.objective import Objective
from gptailor.core.trial import Trial
from gptailor.searchers.evolution import evolution
from gptailor.searchers.greedy import greedy
from gptailor.searchers.random import random_search
from gptailor.searchers.searcher import SearchContext, SearchFunction, make_searcher

pytestmark = pytest.mark.slow

RUNGS = (3, 9, 27)


def result(trials: list[Trial], objective: Objective, n_layers: int) -> Trial:
    """The best on the last rung by the user's own metric, as a study would list them."""
    full = [
        trial
        for trial in trials
        if trial.proposal.n_examples == RUNGS[-1] and len(trial.tailoring.layers) == n_layers
    ]

    def loss(trial: Trial) -> tuple[float, float]:
        assert trial.scores is not None
        return objective.scalar(trial.scores), objective.scalar(trial.scores, proxy=True)

    return min(full, key=loss)


def true_losses(
    landscapes: list[Any], function: SearchFunction, n_trials: int, *, proxy: bool = False
) -> tuple[float, float]:
    """Mean true loss of the results, and the mean number of examples a task that it took."""
    losses, examples = [], []
    for landscape in landscapes:
        objective, space = landscape.objective(RUNGS[-1]), landscape.space()
        references = landscape.references(space, RUNGS[-1])
        context = SearchContext(space, objective, RUNGS, n_trials, 0, references=references)
        trials = landscape.run(make_searcher(function, context))
        best = result(trials, objective, space.n_kept).tailoring
        losses.append(landscape.true_loss(best, proxy=proxy))
        examples.append(sum(trial.proposal.n_examples for trial in trials))
    return float(np.mean(losses)), float(np.mean(examples))


def test_evolution_beats_random_search_by_far_on_as_many_examples(landscapes: list[Any]) -> None:
    evolved, n_evolved = true_losses(landscapes, evolution, 120)
    drawn, n_drawn = true_losses(landscapes, random_search, round(n_evolved / RUNGS[-1]) + 5)
    assert n_drawn >= n_evolved
    assert evolved < drawn - 0.08


@pytest.mark.slow
def test_evolution_is_better_than_greedy_removal_on_as_many_trials(
    landscapes: list[Any],
) -> None:
    evolved, _ = true_losses(landscapes, evolution, 300, proxy=True)
    removed, _ = true_losses(landscapes, greedy, 300, proxy=True)
    assert evolved < removed


def test_evolution_survives_where_every_second_trial_fails(landscapes: list[Any]) -> None:
    landscape = landscapes[0]
    objective, space = landscape.objective(RUNGS[-1]), landscape.space()
    context = SearchContext(space, objective, RUNGS, max_trials=80, seed=0)
    searcher = make_searcher(evolution, context, {"scalarisation": "parego"})
    trials = landscape.run(
        searcher, fails=lambda proposal: int(proposal.tailoring.digest, 16) % 2 == 0
    )
    assert len(trials) == 80
    assert all(trial.complete for trial in trials if int(trial.tailoring.digest, 16) % 2)
