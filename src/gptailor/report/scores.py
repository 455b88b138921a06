"""The scores to show: of which models, on which examples; and how the finalists compare.

The best evidence is shown: an evaluation by lm-eval, else the engine's scores on the test split,
else those on the selection split, else the search's own.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gptailor.core.metrics import METRICS
from gptailor.core.objective import Objective
from gptailor.core.score_table import ScoreTable, score_table
from gptailor.core.statistics import N_RESAMPLES, RESULT, Estimate
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Measurement, Scores, Trial
from gptailor.record.run_record import RunRecord

__all__ = [
    "Evidence",
    "FinalistRow",
    "evidence",
    "finalists",
    "like",
    "loss_difference",
    "parameters_of",
    "table_of",
    "values_of",
    "whole_scores",
]

_NORMAL_95 = 1.959964  # two-sided 95% of a normal distribution, in standard errors


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scores of several models on the same examples."""

    # the examples: ``test``, ``selection`` or ``search``
    split: Literal["test", "selection", "search"]
    judge: Literal["evaluation", "engine"]  # what scored: ``evaluation`` (lm-eval) or ``engine``
    models: Mapping[str, Scores]  # model name to scores: members in order, then ``result``
    # model name to how many parameters it has; None where not known
    parameters: Mapping[str, int | None]
    # task to what a guess scores on these examples, where it is known
    chances: Mapping[str, tuple[float, ...]]
    n_resamples: int = N_RESAMPLES  # of the bootstrap


def parameters_of(runs: Sequence[RunRecord], tailoring: Tailoring) -> int | None:
    """Parameters of a tailoring; None where the records do not have them per layer.

    Heads and neurons that a baseline of one of the runs took out do not count; None where no run
    knows the tailoring and each of its layers has fitted tensors that may be narrower.
    """
    header = runs[0].header
    per_layer = header.family.layer_parameters
    baselines = (each for run in runs for each in run.baselines.values())
    maybe_narrow = all(spec.fitted and spec.refit_to is None for spec in tailoring.layers)
    known = (each.idle_parameters for each in baselines if each.tailoring == tailoring)
    idle = next(known, None if maybe_narrow else 0)
    if idle is None or len(per_layer) != header.family.n_layers or not header.family.parameters:
        return None
    outside = header.family.parameters - sum(per_layer) - idle
    return outside + sum(per_layer[spec.sources[0].layer or 0] for spec in tailoring.layers)


def evidence(run: RunRecord) -> Evidence | None:
    """The best scores that a run has; None where no candidate was scored at all."""
    evaluation, best = run.evaluation, run.best_trial
    if evaluation is not None and evaluation.models:
        models = {model.name: model.scores for model in evaluation.models}
        sizes = {model.name: model.parameters for model in evaluation.models}
        split, n_resamples = evaluation.split, evaluation.n_resamples
        chances = run.header.chances(split) | evaluation.chances
        return Evidence(split, "evaluation", _ordered(run, models), sizes, chances, n_resamples)
    if best is None or best.scores is None:
        return None
    whole = run.header.family.parameters or None
    parameters: dict[str, int | None] = dict.fromkeys(run.header.family.members, whole)
    parameters[RESULT] = parameters_of([run], best.tailoring)
    if RESULT in run.test_scores:
        split, models = "test", run.test_scores
    elif run.chosen is not None and best.number in run.on_selection:
        split, models = "selection", run.with_result(run.on_selection)
    else:
        models = {name: like(scores, best.scores) for name, scores in whole_scores(run).items()}
        split, models = "search", models | {RESULT: best.scores}
    return Evidence(split, "engine", _ordered(run, models), parameters, run.header.chances(split))


def _ordered(run: RunRecord, models: Mapping[str, Scores]) -> dict[str, Scores]:
    """Members, the result, then what else was evaluated."""
    order = [*run.header.family.members, RESULT]
    order += [name for name in models if name not in order]
    return {name: models[name] for name in order if name in models}


def table_of(run: RunRecord, found: Evidence) -> ScoreTable:
    """Base, variants and result by task: the goals first, then what else was evaluated."""
    metrics = {goal.task: goal.metric for goal in run.goals}
    tasks = [pair for scores in found.models.values() for pair in scores.tasks.items()]
    for task, metric in ((task, metric) for task, measured in tasks for metric in measured):
        if metric in METRICS:
            metrics.setdefault(task, metric)
    return score_table(
        found.models,
        metrics,
        chances=found.chances,
        members=run.header.family.members,
        n_resamples=found.n_resamples,
    )


def whole_scores(run: RunRecord) -> dict[str, Scores]:
    """Scores of the whole members that were scored on all search examples."""
    most = run.header.rungs[-1]
    return {name: each for name, each in run.references.items() if each.n_examples >= most}


def like(scores: Scores, pattern: Scores) -> Scores:
    """Cut a whole member's scores to the first examples: those of a candidate's `pattern`."""
    return Scores(
        {
            task: {
                name: Measurement(name, scores.tasks[task][name].values[: len(m.values)], m.weights)
                for name, m in metrics.items()
                if name in scores.tasks.get(task, {})
            }
            for task, metrics in pattern.tasks.items()
        }
    )


def values_of(run: RunRecord, scores: Scores) -> tuple[float, ...]:
    """The user's metric, one value a task."""
    return tuple(scores.value(goal.task, goal.metric) for goal in run.goals)


@dataclass(frozen=True, slots=True)
class FinalistRow:
    """One finalist."""

    trial: Trial
    search_loss: float | None  # mean loss on the search split
    # mean loss on the selection split; None where the base was not scored there
    selection_loss: float | None
    # its selection loss less the pick's, in pairs, below 0 where the proxy chose; None for the pick
    behind: Estimate | None
    values: tuple[float, ...]  # the user's metric on the selection split, one a task


def loss_difference(objective: Objective, ours: Scores, theirs: Scores) -> Estimate:
    """Our mean loss less theirs, in pairs; its 95 % limits are 1.96 standard errors away."""
    mean, error = objective.difference(ours, theirs)
    return Estimate(mean, mean - _NORMAL_95 * error, mean + _NORMAL_95 * error)


def finalists(run: RunRecord) -> list[FinalistRow]:
    """Compare the finalists, the lowest loss on the selection split first."""
    base = run.on_selection.get(BASE)
    objective = None if base is None else Objective(run.goals, base)
    rows = [_row(run, trial, objective) for trial in run.trials if trial.number in run.on_selection]
    # the pick comes before its equals: ties were broken by the continuous metric
    return sorted(
        rows, key=lambda r: (r.selection_loss or 0.0, r.behind is not None, r.trial.number)
    )


def _row(run: RunRecord, trial: Trial, objective: Objective | None) -> FinalistRow:
    scores, searched = run.on_selection[trial.number], run.objective
    behind = None
    picked = None if run.chosen is None else run.on_selection.get(run.chosen.number)
    if objective is not None and picked is not None and picked is not scores:
        behind = loss_difference(objective, scores, picked)
    return FinalistRow(
        trial,
        search_loss=searched.scalar(trial.scores) if searched and trial.scores else None,
        selection_loss=None if objective is None else objective.scalar(scores),
        behind=behind,
        values=values_of(run, scores),
    )
