"""How the pick was made: the finalists on the selection split."""

from dataclasses import dataclass

from gptailor.core.objective import Objective
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Scores, Trial
from gptailor.record.run import RunRecord

__all__ = ["FinalistRow", "FinalistTable", "finalist_table"]

_NORMAL_95 = 1.959964  # two-sided 95% of a normal distribution, in standard errors


@dataclass(frozen=True, slots=True)
class FinalistRow:
    """One finalist.

    Args:
        number: Of the trial.
        origin: How the searcher came to it.
        search_loss: Mean loss on the search split.
        selection_loss: Mean loss on the selection split; None where the base was not scored there.
        behind: Its selection loss less the pick's, in pairs; None for the pick itself.
        values: The user's metric on the selection split, one a task.
    """

    number: int
    origin: str
    search_loss: float | None
    selection_loss: float | None
    behind: Estimate | None
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FinalistTable:
    """All finalists, the best on the selection split first, and the base's values beside them."""

    rows: tuple[FinalistRow, ...]
    base: tuple[float, ...] | None


def finalist_table(run: RunRecord) -> FinalistTable | None:
    """Compare the finalists; None before any was scored on the selection split."""
    finalists = [number for number in run.on_selection if isinstance(number, int)]
    if not finalists:
        return None
    base = run.on_selection.get(BASE)
    objective = None if base is None else Objective(run.goals, base)
    trials = {trial.number: trial for trial in run.trials}
    rows = [_row(run, trials[number], objective) for number in finalists]
    # the pick comes before its equals: ties were broken by the continuous metric
    rows.sort(key=lambda row: (row.selection_loss or 0.0, row.behind is not None, row.number))
    return FinalistTable(tuple(rows), None if base is None else _values(run, base))


def _row(run: RunRecord, trial: Trial, objective: Objective | None) -> FinalistRow:
    scores = run.on_selection[trial.number]
    behind = None
    picked = None if run.chosen is None else run.on_selection.get(run.chosen.number)
    if objective is not None and picked is not None and picked is not scores:
        mean, error = objective.difference(scores, picked)
        behind = Estimate(mean, mean - _NORMAL_95 * error, mean + _NORMAL_95 * error)
    searched = run.objective
    return FinalistRow(
        number=trial.number,
        origin=trial.proposal.origin,
        search_loss=None
        if searched is None or trial.scores is None
        else searched.scalar(trial.scores),
        selection_loss=None if objective is None else objective.scalar(scores),
        behind=behind,
        values=_values(run, scores),
    )


def _values(run: RunRecord, scores: Scores) -> tuple[float, ...]:
    return tuple(scores.value(goal.task, goal.metric) for goal in run.goals)
