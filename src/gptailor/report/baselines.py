"""The baselines of a run: which trial scored each, why others have no scores, and their tables.

Knows records alone; what a comparison of several runs shows of them is in `comparison`.
"""

from dataclasses import dataclass

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Trial
from gptailor.record.entries import BaselineEntry
from gptailor.record.run_record import RunRecord
from gptailor.report.comparison import ComparedModel, Comparison, compared, kept_grid, task_grids
from gptailor.report.grid import Grid
from gptailor.report.scores import parameters_of
from gptailor.report.words import amount, duration, spans

__all__ = ["BaselineTables", "RunBaseline", "baseline_tables", "cut_layers", "run_baselines"]


@dataclass(frozen=True, slots=True)
class RunBaseline:
    """One baseline of a run, with its trial or its failure."""

    name: str  # and the member that it cuts: ``sleb on base``
    entry: BaselineEntry
    trial: Trial | None  # that scored it; baselines with equal tailorings share one
    failure: str | None  # why it has no scores; None where it has a trial


@dataclass(frozen=True, slots=True)
class BaselineTables:
    """The baselines of a run side by side, on the test split."""

    comparison: Comparison | None  # of members and baselines; None before the base was scored
    scored: Grid | None  # a row a baseline
    tasks: tuple[Grid, ...]  # of the same baselines: means of metrics, and task by task
    failed: tuple[tuple[str, str], ...]  # those without scores, and why
    chosen: str  # the row of the chosen trial, or ""


def run_baselines(run: RunRecord) -> tuple[RunBaseline, ...]:
    """The baselines of a run, in order; none of a search."""
    named = {f"{entry.name} on {entry.member}": entry for entry in run.baselines.values()}
    # baselines with equal tailorings share one trial, named by the first of them
    trials = {
        named[trial.proposal.origin].tailoring: trial
        for trial in run.trials
        if trial.proposal.origin in named
    }
    found = []
    for name, entry in named.items():
        trial = trials.get(entry.tailoring)
        failure = entry.failure or (trial.failure if trial else "not scored yet")
        found.append(RunBaseline(name, entry, None if failure is not None else trial, failure))
    return tuple(found)


def cut_layers(tailoring: Tailoring, n_layers: int) -> list[int]:
    """Layers of the whole member that no layer stands for; of merged ones the first stays."""
    kept = {spec.start for spec in tailoring.layers}
    return sorted(set(range(n_layers)) - kept)


def baseline_tables(run: RunRecord) -> BaselineTables | None:
    """Put the baselines of a run side by side; None where it is a search."""
    found = run_baselines(run)
    if not found:
        return None
    tested = {each.name: run.on_test.get(each.trial.number) for each in found if each.trial}
    scores = {name: each for name, each in tested.items() if each is not None}
    failed = tuple(
        (each.name, each.failure or "not scored on unseen examples yet")
        for each in found
        if each.name not in scores
    )
    members = {name: run.on_test[name] for name in run.header.family.members if name in run.on_test}
    if not scores or BASE not in members:
        return BaselineTables(None, None, (), failed, "")
    rows = [(each, _model(run, each)) for each in found if each.name in scores]
    models = [model for _, model in rows]
    comparison = compared(run.header, models, members | scores, split="test")
    kept = kept_grid(comparison)
    head = ("layers cut", "parameters", "layer-tokens\nto find it", "time\nto find it")
    cells = [(*row, *_facts(run, *each)) for row, each in zip(kept.rows, rows, strict=True)]
    scored = Grid("Baselines", ("baseline", *kept.head[1:], *head), tuple(cells))
    numbers = {each.name: each.trial.number for each in found if each.trial}
    chosen = None if run.chosen is None else run.chosen.number
    pick = next((name for name, number in numbers.items() if number == chosen), "")
    return BaselineTables(comparison, scored, task_grids(comparison), failed, pick)


def _model(run: RunRecord, baseline: RunBaseline) -> ComparedModel:
    entry, trial = baseline.entry, baseline.trial
    assert trial is not None, "it was scored"
    tailoring = run.tailoring_of(trial.number)
    parameters = parameters_of([run], tailoring)
    costs = entry.alone_layer_tokens, entry.seconds
    return ComparedModel(baseline.name, tailoring, str(run.folder), parameters, *costs)


def _facts(run: RunRecord, baseline: RunBaseline, model: ComparedModel) -> tuple[str, ...]:
    """What was cut, what is left and what it cost, a cell each."""
    cuts = spans(cut_layers(model.tailoring, run.header.family.n_layers)) or "none"
    narrower = "\nnarrower" if baseline.entry.idle_parameters else ""
    size = "" if model.parameters is None else amount(model.parameters)
    costs = amount(baseline.entry.alone_layer_tokens), duration(baseline.entry.seconds)
    return cuts + narrower, size, *costs
