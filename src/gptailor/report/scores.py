"""The scores to show: of which models, on which examples.

The best evidence is shown: an evaluation by lm-eval, else the engine's scores on the test split,
else those on the selection split, else the search's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from gptailor.core.metrics import METRICS
from gptailor.core.statistics import N_RESAMPLES, RESULT, ScoreTable, score_table
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Measurement, Scores
from gptailor.record.entries import Header
from gptailor.record.run import RunRecord

__all__ = ["Evidence", "evidence", "like", "parameters_of", "table_of"]


@dataclass(frozen=True, slots=True)
class Evidence:
    """Scores of several models on the same examples.

    Args:
        split: The examples: ``test``, ``selection`` or ``search``.
        judge: What scored: ``evaluation`` (lm-eval) or ``engine``.
        models: Model name to scores: members in order, then ``result``.
        parameters: Model name to how many parameters it has; None where not known.
        n_resamples: Of the bootstrap.
    """

    split: Literal["test", "selection", "search"]
    judge: Literal["evaluation", "engine"]
    models: Mapping[str, Scores]
    parameters: Mapping[str, int | None]
    n_resamples: int = N_RESAMPLES


def parameters_of(header: Header, tailoring: Tailoring) -> int | None:
    """Parameters of a tailoring; None where the record does not have them per layer."""
    per_layer = header.family.layer_parameters
    if len(per_layer) != header.family.n_layers or not header.family.parameters:
        return None
    outside = header.family.parameters - sum(per_layer)
    return outside + sum(per_layer[spec.sources[0].layer or 0] for spec in tailoring.layers)


def evidence(run: RunRecord) -> Evidence | None:
    """The best scores that a run has; None where no candidate was scored at all."""
    evaluation, best = run.evaluation, run.best_trial
    if evaluation is not None and evaluation.models:
        models = {model.name: model.scores for model in evaluation.models}
        sizes = {model.name: model.parameters for model in evaluation.models}
        split, n_resamples = evaluation.split, evaluation.n_resamples
        return Evidence(split, "evaluation", _ordered(run, models), sizes, n_resamples)
    if best is None or best.scores is None:
        return None
    whole = run.header.family.parameters or None
    parameters: dict[str, int | None] = dict.fromkeys(run.header.family.members, whole)
    parameters[RESULT] = parameters_of(run.header, best.tailoring)
    if RESULT in run.test_scores:
        split, models = "test", run.test_scores
    elif run.chosen is not None and best.number in run.on_selection:
        split, models = "selection", run.selection_scores
    else:
        models = {name: like(scores, best.scores) for name, scores in run.references.items()}
        split, models = "search", models | {RESULT: best.scores}
    return Evidence(split, "engine", _ordered(run, models), parameters)


def _ordered(run: RunRecord, models: Mapping[str, Scores]) -> dict[str, Scores]:
    """Members, the result, then what else was evaluated."""
    order = [*run.header.family.members, RESULT]
    order += [name for name in models if name not in order]
    return {name: models[name] for name in order if name in models}


def table_of(run: RunRecord, found: Evidence) -> ScoreTable:
    """Base, variants and result by task: the goals first, then what else was evaluated.

    Raises:
        RecordError: Two models were not measured on the same examples.
    """
    metrics = {goal.task: goal.metric for goal in run.goals}
    for scores in found.models.values():
        for task, measured in scores.tasks.items():
            for metric in measured:
                if metric in METRICS:
                    metrics.setdefault(task, metric)
    return score_table(found.models, metrics, n_resamples=found.n_resamples)


def like(scores: Scores, pattern: Scores) -> Scores:
    """Cut the scores of a whole member to the first examples, which are those a candidate saw.

    Args:
        scores: On all the examples of a split.
        pattern: The candidate's, on as many or fewer.
    """
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
