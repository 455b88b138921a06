"""Evolution of tailorings: the default search; docs/concepts/evolution.md explains it step by step.

Leave-one-out ablation on the base finds good cuts. A generation is the children of one parent:
they are asked together, so that the engine runs their shared prefixes once. Candidates that survive
successive halving to the last rung enter the elite, from which parents are drawn.
"""

import functools
import itertools
from collections.abc import Iterator
from typing import Annotated

import numpy as np

from gptailor.core.params import Choice, Range
from gptailor.core.pareto import draw_weights
from gptailor.core.tailoring import Tailoring
from gptailor.searchers.ablation import ablate, ablation_designs
from gptailor.searchers.halving import Judge, bracket_within, successive_halving
from gptailor.searchers.initial_designs import Cuts, first_designs
from gptailor.searchers.offspring import Offspring, Variation
from gptailor.searchers.searcher import ProposalGenerator, SearchContext
from gptailor.searchers.space import Space
from gptailor.searchers.surrogate import Floats, LossModel, Surrogate

__all__ = ["evolution"]


def evolution(  # noqa: PLR0913  # the options of the search are declared here, and only here
    context: SearchContext,
    *,
    population: Annotated[int, Range(1, 1000)] = 4,
    children: Annotated[int, Range(1, 1000)] = 9,
    n_initial: Annotated[int, Range(1, 10_000)] = 16,
    keep_fraction: Annotated[float, Range(0.01, 1.0)] = 1 / 3,
    drop_z: Annotated[float, Range(0.0, 100.0)] = 1.0,
    tie_z: Annotated[float, Range(0.0, 100.0)] = 0.5,
    mutation_rate: Annotated[float, Range(1.0, 100.0)] = 1.5,
    crossover_rate: Annotated[float, Range(0.0, 1.0)] = 0.1,
    swap_rate: Annotated[float, Range(0.0, 100.0)] = 5.0,
    source_rate: Annotated[float, Range(0.0, 100.0)] = 3.0,
    merge_rate: Annotated[float, Range(0.0, 100.0)] = 1.5,
    outer_rate: Annotated[float, Range(0.0, 100.0)] = 0.3,
    share_prefix: Annotated[float, Range(0.0, 1.0)] = 0.65,
    ablation_fraction: Annotated[float, Range(0.0, 1.0)] = 0.75,
    surrogate_fraction: Annotated[float, Range(0.0, 1.0)] = 0.8,
    surrogate_pool: Annotated[int, Range(1, 1000)] = 12,
    scalarisation: Annotated[str, Choice(("weights", "parego"))] = "weights",
) -> ProposalGenerator:
    """Evolve tailorings by small changes, evaluated on few examples first.

    Args:
        context: What the search is about.
        population: How many of the elite may be parents. More explores, fewer is faster.
        children: How many children of one parent start successive halving.
        n_initial: How many initial designs start the first successive halving; fewer where the
            budget is small.
        keep_fraction: Fraction of the candidates on a rung that goes on to the next.
        drop_z: A child that is worse than its parent by so many standard errors, on the examples
            both have seen, does not go on.
        tie_z: On the last rung, candidates within so many standard errors of the best are ranked
            by the continuous proxy metric.
        mutation_rate: How many changes a child has on average; at least one.
        crossover_rate: Fraction of the children that come from two parents.
        swap_rate: How often a cut and a kept layer are swapped, relative to the other rates.
        source_rate: How often layers are taken from another member.
        merge_rate: How often a merge's members or parameters change.
        outer_rate: How often the embedding, or norm and head, are taken from another member.
        share_prefix: At 0 every position is as likely to change; towards 1 children differ from
            their parent in later layers, and are cheaper.
        ablation_fraction: Fraction of the budget that may go into ablations: the base without one
            layer, on the fewest examples, and in later rounds without one more. They have fewer
            layers cut than wanted and are no results, but they find good cuts fast; none where
            this fraction of the budget is smaller than the number of layers.
        surrogate_fraction: Fraction of the children picked by a linear model of the loss, fitted
            to the trials so far; the others are drawn at random.
        surrogate_pool: From how many children the model picks each.
        scalarisation: With ``weights`` losses of tasks are summed by their weights; with ``parego``
            each generation draws weights, so that the run spreads along the Pareto front.
    """
    initial_rng, rng = np.random.default_rng(context.seed).spawn(2)
    rates = {
        "swap": swap_rate,
        "source": source_rate,
        "everywhere": source_rate / 10,
        "merge": merge_rate,
        "outer": outer_rate,
    }
    model = LossModel(context.space, context.history)
    variation = Variation(context.space, rates, mutation_rate, crossover_rate, share_prefix)
    offspring = Offspring(context.history, variation, model, surrogate_fraction, surrogate_pool)
    parego = scalarisation == "parego"
    halve = functools.partial(successive_halving, keep_fraction=keep_fraction, drop_z=drop_z)
    bracket = functools.partial(
        bracket_within, n_rungs=len(context.rungs), keep_fraction=keep_fraction
    )

    judge = _new_judge(context, tie_z, parego, initial_rng)
    cuts = yield from ablate(context.space, judge, int(ablation_fraction * context.max_trials))
    first, size = bracket(context.left // 2, max(n_initial, children))
    designs = _initial_designs(
        context.space, cuts, model.fit(judge) if cuts else None, n_initial, initial_rng
    )
    initial = dict(itertools.islice(designs, 4 * size))
    yield from halve(list(initial.items())[:size], judge, first=first)
    while True:
        judge = _new_judge(context, tie_z, parego, rng)
        elite = _elite(context, judge)[:population]
        first, size = bracket(context.left, children)
        parent, drawn = offspring.draw(judge, elite, size, rng) if elite else (None, [])
        if not drawn:  # all failed, or everything near was tried
            drawn = [(context.space.random(rng), "random") for _ in range(size)]
        yield from halve(drawn, judge, parent=parent, first=first)


def _new_judge(
    context: SearchContext, tie_z: float, parego: bool, rng: np.random.Generator
) -> Judge:
    n_tasks = len(context.objective.goals)
    weights = draw_weights(n_tasks, rng) if parego and n_tasks > 1 else None
    return Judge(context.objective, context.history, context.rungs, tie_z, weights)


def _initial_designs(
    space: Space,
    cuts: Cuts,
    surrogate: Surrogate | None,
    n_initial: int,
    rng: np.random.Generator,
) -> Iterator[tuple[Tailoring, str]]:
    """Initial designs and their origins, the likeliest first, without end.

    Args:
        space: What may be proposed.
        cuts: Found by ablation.
        surrogate: Fitted to the ablations; None where there were none.
        n_initial: Twice as many other sets of cuts are drawn from the surrogate.
        rng: Source of all random draws.
    """
    if surrogate is not None:
        drawn = (_cheapest_cuts(space, surrogate.draw(rng)) for _ in range(2 * n_initial))
        for design in ablation_designs(space, itertools.chain([cuts], drawn)):
            yield design, "design by ablation"
    for design in first_designs(space, rng):
        yield design, "initial design"


def _cheapest_cuts(space: Space, coefficients: Floats) -> Cuts:
    """The layers that cost least to cut; the first coefficients are those of cuts."""
    order = sorted(space.free, key=lambda layer: float(coefficients[layer]))
    return tuple(sorted(order[: space.n_removed]))


def _elite(context: SearchContext, judge: Judge) -> list[Tailoring]:
    """Rank the results that were evaluated on the most examples; ablations are no results."""
    for n_examples in reversed(context.rungs):
        evaluated = (trial.tailoring for trial in context.history.complete(n_examples))
        results = [each for each in evaluated if len(each.layers) == context.space.n_kept]
        if results:
            return judge.ranked(results, n_examples)
    return []
