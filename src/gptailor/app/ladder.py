"""A depth ladder: a search for each number of layers to cut, each starting from the one before."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

from gptailor.app.assemble import Assembly
from gptailor.app.coefficient_slopes import enough_steps
from gptailor.core.specs import BASELINE
from gptailor.core.trial import Trial
from gptailor.record.entries import Entry, ForecastEntry, ModelEntry, WrittenEntry
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
        # later searches start from the results of the first
        n_steps=0 if assembly.earlier else enough_steps(part * assembly.plan.n_steps),
    )
    return replace(assembly, plan=plan, space=replace(assembly.space, n_removed=depth))


def after(assembly: Assembly, trials: Iterable[Trial], entries: Iterable[Entry]) -> Assembly:
    """The same parts, knowing what a search of the ladder with fewer layers cut has measured."""
    free = {"seconds": 0.0, "layer_tokens": 0}
    named = (entry for entry in entries if isinstance(entry, ModelEntry | WrittenEntry))
    members = (entry for entry in named if entry.member is not None and entry.scores is not None)
    known = assembly.known or tuple(entry.model_copy(update=free) for entry in members)
    return replace(assembly, earlier=(*assembly.earlier, *trials), known=known)


def forecasts(
    assembly: Assembly, setup: WorkerSetup | None = None
) -> Iterator[tuple[Assembly, ForecastEntry]]:
    """Predict what each search costs: one, or those of a ladder from the smallest cut up."""
    for depth in assembly.config.depths(assembly.plan.n_layers):
        step = at_depth(assembly, depth)
        expected, trials, journal = step.dry_run(setup)
        yield step, expected
        assembly = after(assembly, trials, journal.entries)
