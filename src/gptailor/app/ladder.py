"""A depth ladder: a search for each number of layers to cut, each starting from the one before."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gptailor.app.assemble import Assembly
from gptailor.app.coefficient_slopes import n_steps_of
from gptailor.core.specs import BASELINE
from gptailor.core.trial import Trial
from gptailor.record.entries import Entry, ForecastEntry, ModelEntry, SlopeEntry, WrittenEntry
from gptailor.study.coefficients import fitted_before
from gptailor.workers import WorkerSetup

__all__ = ["PART", "after", "at_depth", "forecasts"]

PART = 0.35  # of the budget of a single search, that each of a ladder has


def at_depth(assembly: Assembly, depth: int) -> Assembly:
    """The same parts; of a ladder, for the search with so many layers cut and its budget."""
    if not assembly.config.ladder:
        return assembly
    budget = assembly.config.budget
    part = 1.0 if assembly.config.search.name == BASELINE else PART
    plan = replace(
        assembly.plan,
        n_removed=depth,
        max_trials=max(1, round(part * budget.max_trials)),
        layer_tokens=budget.layer_tokens and max(1, round(part * budget.layer_tokens)),
        timeout_s=budget.timeout_s and part * budget.timeout_s,
        n_steps=0,
    )
    later = assembly.earlier or assembly.fitted  # which has what the first one fitted
    if assembly.plan.n_steps and not later:
        n_steps = n_steps_of(budget, assembly.slopes.layer_tokens, plan, assembly.evaluator)
        plan = replace(plan, n_steps=n_steps)
    return replace(assembly, plan=plan, space=replace(assembly.space, n_removed=depth))


def after(assembly: Assembly, trials: Iterable[Trial], entries: Iterable[Entry]) -> Assembly:
    """The same parts, knowing what a search of the ladder with fewer layers cut has measured."""
    entries, free = list(entries), {"seconds": 0.0, "layer_tokens": 0}
    slopes = [entry for entry in entries if isinstance(entry, SlopeEntry)]
    named = (entry for entry in entries if isinstance(entry, ModelEntry | WrittenEntry))
    members = (entry for entry in named if entry.member is not None and entry.scores is not None)
    known = assembly.known or tuple(entry.model_copy(update=free) for entry in members)
    variants, n_layers = assembly.plan.members[1:], assembly.plan.n_layers
    fitted = assembly.fitted or fitted_before(slopes, variants, n_layers=n_layers)
    if fitted is not None:
        fitted = replace(fitted, layer_tokens=0)
    earlier = (*assembly.earlier, *trials)
    return replace(assembly, earlier=earlier, known=known, fitted=fitted)


def forecasts(
    assembly: Assembly, setup: WorkerSetup | None = None
) -> Iterator[tuple[Assembly, ForecastEntry]]:
    """Predict what each search costs: one, or those of a ladder from the smallest cut up."""
    for depth in assembly.config.depths(assembly.plan.n_layers):
        step = at_depth(assembly, depth)
        expected, trials, journal = step.dry_run(setup)
        n_steps = sum(1 for _ in journal.of(SlopeEntry))  # fewer where the time is short
        step = replace(step, plan=replace(step.plan, n_steps=n_steps))
        yield step, expected
        assembly = after(assembly, trials, journal.entries)
