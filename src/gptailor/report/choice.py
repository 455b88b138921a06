"""How the pick was made: the finalists on examples that the search did not score.

Knows nothing of pages.
"""

from dataclasses import dataclass

from gptailor.core.objective import Objective
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Scores, Trial
from gptailor.record.run import RunRecord

__all__ = ["Choice", "FinalistRow", "choice"]

_NORMAL_95 = 1.959964  # two-sided 95% of a normal distribution, in standard errors


@dataclass(frozen=True, slots=True)
class FinalistRow:
    """One finalist.

    Args:
        number: Of the trial.
        origin: How the searcher came to it.
        search_loss: Mean loss on the search split.
        choose_loss: Mean loss on the selection split; None where the base was not scored there.
        behind: Its choose loss less the pick's, in pairs; None for the pick itself.
        values: The user's metric on the selection split, one a task.
    """

    number: int
    origin: str
    search_loss: float | None
    choose_loss: float | None
    behind: Estimate | None
    values: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Choice:
    """All finalists, the best on the selection split first, and the base's values beside them."""

    rows: tuple[FinalistRow, ...]
    base: tuple[float, ...] | None


def choice(run: RunRecord) -> Choice | None:
    """Tell how the pick was made; None before any finalist was compared."""
    if not run.finalists:
        return None
    base = run.compared.get(BASE)
    objective = None if base is None else Objective(run.goals, base)
    trials = {trial.number: trial for trial in run.trials}
    rows = [_row(run, trials[number], objective) for number in run.finalists]
    # the pick stands before its equals: ties were broken by the continuous metric
    rows.sort(key=lambda row: (row.choose_loss or 0.0, row.behind is not None, row.number))
    return Choice(tuple(rows), None if base is None else _values(run, base))


def _row(run: RunRecord, trial: Trial, objective: Objective | None) -> FinalistRow:
    scores = run.finalists[trial.number]
    behind = None
    picked = None if run.chosen is None else run.finalists.get(run.chosen.number)
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
        choose_loss=None if objective is None else objective.scalar(scores),
        behind=behind,
        values=_values(run, scores),
    )


def _values(run: RunRecord, scores: Scores) -> tuple[float, ...]:
    return tuple(scores.value(goal.task, goal.metric) for goal in run.goals)
