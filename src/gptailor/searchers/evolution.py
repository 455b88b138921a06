"""Evolution of tailorings: the default search; docs/concepts/evolution.md explains it step by step.

Leave-one-out ablation of the best whole model finds good cuts. A generation is the children of one
parent: they are asked together, so that the engine runs their shared prefixes once. Candidates that
survive successive halving to the last rung enter the elite, from which parents are drawn.
"""

import itertools
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from numpy.random import Generator

from gptailor.core.params import Choice, Range
from gptailor.core.tailoring import Tailoring
from gptailor.searchers.ablation import ablate, cut_designs
from gptailor.searchers.halving import Judge, SuccessiveHalving
from gptailor.searchers.initial_designs import Cuts, first_designs, late_blocks
from gptailor.searchers.offspring import Offspring
from gptailor.searchers.searcher import ProposalGenerator, SearchContext
from gptailor.searchers.space import Space, kept_positions
from gptailor.searchers.surrogate import Floats, LossModel, Surrogate
from gptailor.searchers.wholes import rank_wholes

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
    start_fraction: Annotated[float, Range(0.0, 1.0)] = 0.05,
    ablation_fraction: Annotated[float, Range(0.0, 1.0)] = 0.75,
    surrogate_fraction: Annotated[float, Range(0.0, 1.0)] = 0.8,
    surrogate_pool: Annotated[int, Range(1, 1000)] = 12,
    scalarisation: Annotated[str, Choice(("weights", "parego"))] = "weights",
) -> ProposalGenerator:
    """Evolve tailorings by small changes, evaluated on few examples first.

    Args:
        context: What the search is about.
        population: How many of the elite may be parents; more explores, fewer is faster.
        children: How many children of one parent start successive halving.
        n_initial: How many initial designs do; fewer where the budget is small.
        keep_fraction: Fraction of the candidates on a rung that goes on to the next.
        drop_z: A child worse than its parent by so many standard errors does not go on.
        tie_z: On the last rung, candidates within so many standard errors of the best are ranked
            by the continuous proxy metric.
        mutation_rate: Mean number of changes of a child; at least one.
        crossover_rate: Fraction of the children that come from two parents.
        swap_rate: How often a cut and a kept layer are swapped, relative to the other rates.
        source_rate: How often layers are taken from other sources.
        merge_rate: How often a merge's members or parameters change.
        outer_rate: How often the embedding, or norm and head, are taken from another member.
        share_prefix: At 0 all positions change alike; towards 1 late ones do, which is cheaper.
        start_fraction: Fraction of the budget that may go into merges without cuts, to find what is
            worth cutting.
        ablation_fraction: Fraction of the budget that may go into leave-one-out ablations.
        surrogate_fraction: Fraction of the children picked by a linear model of the loss.
        surrogate_pool: From how many children the model picks each.
        scalarisation: With ``weights`` the tasks' losses are summed by their weights; with
            ``parego`` each generation draws weights, to spread along the Pareto front.
    """
    initial_rng, rng = np.random.default_rng(context.seed).spawn(2)
    rates = {"swap": swap_rate, "source": source_rate, "everywhere": source_rate / 10}
    offspring = Offspring(
        LossModel(context),
        rates | {"merge": merge_rate, "outer": outer_rate},
        mutation_rate,
        crossover_rate,
        share_prefix,
        surrogate_fraction,
        surrogate_pool,
    )
    halving = SuccessiveHalving(
        context, keep_fraction, drop_z, tie_z, parego=scalarisation == "parego"
    )

    judge = halving.judge(initial_rng)
    starts = _elite(judge, _fewest_layers(context))[:population]
    if not starts:
        starts = yield from rank_wholes(judge, start_fraction * context.max_trials)
    cuts = yield from ablate(judge, ablation_fraction * context.max_trials, starts[0])
    surrogate = offspring.model.fit(judge) if cuts else None
    designs = _initial_designs(context.space, starts, cuts, surrogate, n_initial, initial_rng)
    first, size = halving.bracket(context.left // 2, max(n_initial, children))
    initial = dict(itertools.islice(designs, 4 * size))
    yield from halving.run(list(initial.items())[:size], judge, first)
    while True:
        judge = halving.judge(rng)
        elite = _elite(judge, context.space.n_kept)[:population]
        if elite and context.left < context.cost(context.rungs[-1]):
            return
        first, size = halving.bracket(context.left, children)
        parent, drawn = offspring.draw(judge, elite, size, rng) if elite else (None, [])
        if not drawn:  # all failed, or everything near was evaluated
            drawn = [(context.space.random(rng), "random") for _ in range(size)]
        yield from halving.run(drawn, judge, first, parent)


def _initial_designs(
    space: Space,
    starts: Sequence[Tailoring],
    cuts: Cuts,
    surrogate: Surrogate | None,
    n_initial: int,
    rng: Generator,
) -> Iterator[tuple[Tailoring, str]]:
    """Initial designs and their origins, the likeliest first, without end.

    Where ablation found `cuts`, the first ones have these, or are drawn from the surrogate; else
    late blocks are cut from the starts.
    """
    sets: Iterator[Cuts] = iter([cuts] if cuts else late_blocks(space))
    if surrogate is not None:
        drawn = (
            _cheapest_cuts(starts[0], space, surrogate.draw(rng)) for _ in range(2 * n_initial)
        )
        sets = itertools.chain(sets, drawn)
    for design in cut_designs(space, starts, sets):
        yield design, "design by ablation" if cuts else "late block"
    for design in first_designs(space, rng):
        yield design, "initial design"


def _cheapest_cuts(start: Tailoring, space: Space, coefficients: Floats) -> Cuts:
    """The layers that cost least to cut; the first coefficients are those of cuts."""
    free = (layer for layer in kept_positions(start) if layer not in space.keep)
    order = sorted(free, key=lambda layer: float(coefficients[layer]))
    return tuple(sorted(order[: len(start.layers) - space.n_kept]))


def _fewest_layers(context: SearchContext) -> int:
    """The layers of the smallest results of earlier searches, which cut fewer; 0 for none."""
    last = (t for t in context.earlier if t.complete and t.proposal.n_examples == context.rungs[-1])
    return min((len(trial.tailoring.layers) for trial in last), default=0)


def _elite(judge: Judge, n_kept: int) -> list[Tailoring]:
    """Rank the candidates with so many layers that were evaluated on the most examples."""
    context = judge.context
    for n_examples in reversed(context.rungs):
        evaluated = (trial.tailoring for trial in context.history.complete(n_examples))
        results = [each for each in evaluated if len(each.layers) == n_kept]
        if results:
            return judge.ranked(results, n_examples)
    return []
