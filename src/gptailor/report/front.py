"""Many tasks at once: the Pareto front, as in ``front.yaml``, drawn for every pair of tasks."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np

from gptailor.core.metrics import METRICS
from gptailor.core.objective import Goal, Objective
from gptailor.core.trial import Scores
from gptailor.record.run_record import RunRecord
from gptailor.report.scores import like, values_of, whole_scores
from gptailor.report.svg import Axes, Panel, Scale, dot, dots, path, picture, square, text
from gptailor.report.words import count, decimal

__all__ = ["Front", "FrontRow", "front"]

_WIDTH, _HEIGHT = 760.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 740.0, 30.0, 362.0
_MAX_PAIRS = 28


@dataclass(frozen=True, slots=True)
class FrontRow:
    """One candidate of the front."""

    number: int
    values: tuple[float, ...]  # the user's metric, one a task
    kept: tuple[float, ...]  # 1 less the loss, one a task: 1 is as good as the base
    loss: float  # the weighted mean loss over tasks
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Front:
    """The front as a table, the lowest mean loss first, and as pictures, one a pair of tasks."""

    rows: tuple[FrontRow, ...]
    panels: tuple[Panel, ...]


def front(run: RunRecord) -> Front | None:
    """Find and draw the front; None with one task, or before anything was scored in full."""
    objective, chosen = run.objective, run.chosen_trial
    if objective is None or len(run.goals) < 2 or not run.able:
        return None
    rows = [
        FrontRow(
            number=trial.number,
            values=values_of(run, trial.scores),
            kept=tuple(float(1 - loss) for loss in objective.losses(trial.scores)),
            loss=objective.scalar(trial.scores),
            is_chosen=chosen is not None and trial.tailoring == chosen.tailoring,
        )
        for trial in run.front
        if trial.scores is not None
    ]
    rows.sort(key=lambda row: (row.loss, row.number))
    return Front(tuple(rows), tuple(_panel(run, rows, pair) for pair in _pairs(run, objective)))


def _pairs(run: RunRecord, objective: Objective) -> list[tuple[int, int]]:
    """Pairs of goals, the strongest trade-off first: by the rank correlation of their losses."""
    losses = np.array([objective.losses(t.scores) for t in run.able if t.scores is not None])
    ranks = losses.argsort(axis=0).argsort(axis=0).astype(np.float64)
    ranks -= ranks.mean(axis=0)
    pairs = list(combinations(range(len(run.goals)), 2))
    pairs.sort(key=lambda pair: (float(ranks[:, pair[0]] @ ranks[:, pair[1]]), pair))
    return pairs[:_MAX_PAIRS]


def _panel(run: RunRecord, rows: Sequence[FrontRow], pair: tuple[int, int]) -> Panel:
    first, second = pair
    others = [values_of(run, trial.scores) for trial in run.able if trial.scores is not None]
    pattern, scored = run.able[0].scores or Scores(), whole_scores(run)
    wholes = {
        member: values_of(run, like(scored[member], pattern))
        for member in run.header.family.members
        if member in scored
    }
    known = [*others, *wholes.values()]
    axes = Axes(
        _scale(run.goals[first], [values[first] for values in known], (_LEFT, _RIGHT)),
        _scale(run.goals[second], [values[second] for values in known], (_BOTTOM, _TOP)),
    )

    def at(values: Sequence[float]) -> tuple[float, float]:
        return axes.x(values[first]), axes.y(values[second])

    across, upwards = (f"{run.goals[i].task}, {run.goals[i].metric}: better" for i in pair)
    drawn = [
        *axes.columns(),
        *axes.rows(),
        text(_RIGHT, _BOTTOM + 38, f"{across} →", class_="axis end"),
        text(8.0, _TOP - 14, f"{upwards} ↑", class_="axis"),
        dots([at(values) for values in others], class_="cloud"),
    ]
    if len(run.goals) == 2 and len(rows) > 1:  # from each point straight down to the next one
        points = sorted(at(row.values) for row in rows)
        steps = [step for left, right in pairwise(points) for step in ((left[0], right[1]), right)]
        drawn.append(path([points[0], *steps], class_="front-line"))
    for row in rows:
        title = f"trial {row.number}: " + ", ".join(map(decimal, row.values))
        drawn.append(dot(*at(row.values), 4.5, "dot top", title))
        if row.is_chosen:
            drawn.append(dot(*at(row.values), 8.5, "ring"))
    for member, values in wholes.items():
        color = f"m{run.header.family.members.index(member) % 9}"
        drawn.append(square(*at(values), 10, color, f"{member}, whole"))
    label = f"{run.goals[first].task} against {run.goals[second].task}"
    about = f"{count(len(others), 'candidate')}; to the right and upwards is better."
    svg = picture(_WIDTH, _HEIGHT, drawn, title=label, about=about)
    return Panel(f"{first}-{second}", label, svg)


def _scale(goal: Goal, values: Sequence[float], span: tuple[float, float]) -> Scale:
    """A scale that points to the better side; outliers on the worse side are put at its end."""
    known = np.array([value for value in values if np.isfinite(value)] or [0.0])
    higher = METRICS[goal.metric].higher_is_better
    low, high = float(known.min()), float(known.max() if higher else np.quantile(known, 0.95))
    margin = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    start, stop = span if higher else reversed(span)
    return Scale(low - margin, high + margin, start, stop)
