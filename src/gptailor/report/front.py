"""Many tasks at once: what is given up in one for another.

The front is that of ``front.yaml``: the candidates that no other beats on every task, by the
search's own examples. Knows nothing of pages.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
from markupsafe import Markup

from gptailor.core.metrics import METRICS
from gptailor.core.objective import Goal
from gptailor.core.trial import Scores
from gptailor.record.ranking import front_of
from gptailor.record.run import RunRecord
from gptailor.report.scores import like
from gptailor.report.svg import Scale, dots, path, picture, tag, text
from gptailor.report.words import count, decimal

__all__ = ["Front", "FrontRow", "PairPanel", "front"]

_WIDTH, _HEIGHT = 760.0, 420.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 70.0, 740.0, 30.0, 362.0
_MAX_PAIRS = 28
_MAX_ROWS = 40


@dataclass(frozen=True, slots=True)
class FrontRow:
    """One candidate of the front.

    Args:
        number: Of the trial.
        values: The user's metric, one a task.
        kept: 1 less the loss, one a task: 1 is as good as the base.
        loss: The weighted mean loss over tasks.
        is_chosen: Whether it is the pick.
    """

    number: int
    values: tuple[float, ...]
    kept: tuple[float, ...]
    loss: float
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class PairPanel:
    """Two tasks against each other."""

    name: str
    label: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Front:
    """The front as pictures, one a pair of tasks, and as a table.

    Args:
        goals: The tasks, in the order of the rows' values.
        rows: The candidates, the lowest mean loss first.
        n_front: How many there are in all.
        n_compared: Candidates among which the front was found.
        n_examples: Examples a task they were compared on.
        panels: The pair most at odds first.
    """

    goals: tuple[Goal, ...]
    rows: tuple[FrontRow, ...]
    n_front: int
    n_compared: int
    n_examples: int
    panels: tuple[PairPanel, ...]


def front(run: RunRecord) -> Front | None:
    """Find and draw the front; None with one task, or before anything was scored in full."""
    objective = run.objective
    if objective is None or len(run.goals) < 2 or not run.able:
        return None
    members = front_of(run.trials, objective, run.n_kept)
    if not members:
        return None
    chosen = None if run.chosen is None else run.chosen.number
    tailoring = None if run.result is None else run.result.tailoring
    rows = [
        FrontRow(
            number=trial.number,
            values=_values(run.goals, trial.scores),
            kept=tuple(float(1 - loss) for loss in objective.losses(trial.scores)),
            loss=objective.scalar(trial.scores),
            is_chosen=trial.number == chosen or trial.tailoring == tailoring,
        )
        for trial in members
        if trial.scores is not None
    ]
    rows.sort(key=lambda row: (row.loss, row.number))
    panels = tuple(_panel(run, rows, pair) for pair in _pairs(run))
    shown = tuple(rows[:_MAX_ROWS])
    n_examples = run.able[0].proposal.n_examples
    return Front(run.goals, shown, len(rows), len(run.able), n_examples, panels)


def _values(goals: Sequence[Goal], scores: Scores) -> tuple[float, ...]:
    return tuple(scores.value(goal.task, goal.metric) for goal in goals)


def _pairs(run: RunRecord) -> list[tuple[int, int]]:
    """Pairs of goals, those at odds first: by the rank correlation of their losses."""
    objective = run.objective
    assert objective is not None, "checked by the caller"
    losses = np.array([objective.losses(t.scores) for t in run.able if t.scores is not None])
    ranks = losses.argsort(axis=0).argsort(axis=0).astype(np.float64)
    ranks -= ranks.mean(axis=0)
    pairs = list(combinations(range(len(run.goals)), 2))
    pairs.sort(key=lambda pair: (float(ranks[:, pair[0]] @ ranks[:, pair[1]]), pair))
    return pairs[:_MAX_PAIRS]


@dataclass(frozen=True, slots=True)
class _Mark:
    """A named point: a member, or a candidate of the front."""

    name: str
    values: tuple[float, ...]
    kind: str


def _panel(run: RunRecord, rows: Sequence[FrontRow], pair: tuple[int, int]) -> PairPanel:
    goals = [run.goals[index] for index in pair]
    label = f"{goals[0].task} against {goals[1].task}"
    others = [_values(run.goals, trial.scores) for trial in run.able if trial.scores is not None]
    pattern = run.able[0].scores or Scores()
    marks = [
        _Mark(member, _values(run.goals, like(run.references[member], pattern)), f"m{row % 9}")
        for row, member in enumerate(run.header.family.members)
        if member in run.references
    ]
    x, y = (
        _axis(run.goals[index], [v[index] for v in others + [m.values for m in marks]], span)
        for index, span in zip(pair, ((_LEFT, _RIGHT), (_BOTTOM, _TOP)), strict=True)
    )
    drawn = [
        *_frame(x, y, goals),
        dots([(x(v[pair[0]]), y(v[pair[1]])) for v in others], class_="cloud"),
        *_front_marks(rows, pair, x, y, joined=len(run.goals) == 2),
        *_member_marks(marks, pair, x, y),
    ]
    about = f"{count(len(others), 'candidate')}; to the right and upwards is better."
    return PairPanel(
        f"{pair[0]}-{pair[1]}", label, picture(_WIDTH, _HEIGHT, drawn, title=label, about=about)
    )


def _axis(goal: Goal, values: Sequence[float], span: tuple[float, float]) -> Scale:
    """A scale that points to the better side; the broken ones stand at its end."""
    known = np.array([value for value in values if np.isfinite(value)] or [0.0])
    if METRICS[goal.metric].higher_is_better:
        low, high = float(known.min()), float(known.max())
    else:
        low, high = float(known.min()), float(np.quantile(known, 0.95))
    margin = 0.06 * (high - low) or 0.05 * (abs(high) or 1.0)
    limits = (low - margin, high + margin)
    if METRICS[goal.metric].higher_is_better:
        return Scale(limits[0], limits[1], span[0], span[1])
    return Scale(limits[0], limits[1], span[1], span[0])


def _frame(x: Scale, y: Scale, goals: Sequence[Goal]) -> list[Markup]:
    drawn = []
    for value in x.ticks():
        drawn.append(tag("line", x1=x(value), x2=x(value), y1=_TOP, y2=_BOTTOM, class_="grid"))
        drawn.append(text(x(value), _BOTTOM + 17, f"{value:g}", class_="tick mid"))
    for value in y.ticks():
        drawn.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=y(value), y2=y(value), class_="grid"))
        drawn.append(text(_LEFT - 8, y(value) + 4, f"{value:g}", class_="tick end"))
    drawn.append(
        text(
            _RIGHT, _BOTTOM + 38, f"{goals[0].task}, {goals[0].metric}: better →", class_="axis end"
        )
    )
    drawn.append(
        text(8.0, _TOP - 14, f"{goals[1].task}, {goals[1].metric}: better ↑", class_="axis")
    )
    return drawn


def _front_marks(
    rows: Sequence[FrontRow], pair: tuple[int, int], x: Scale, y: Scale, *, joined: bool
) -> list[Markup]:
    places = sorted((x(row.values[pair[0]]), y(row.values[pair[1]])) for row in rows)
    drawn = []
    if joined and len(places) > 1:
        # what is known to be had: from each candidate straight down to the next one's level
        steps = [places[0]]
        for before, after in pairwise(places):
            steps += [(before[0], after[1]), after]
        drawn.append(path(steps, class_="front-line"))
    for row in rows:
        told = f"trial {row.number}: " + ", ".join(decimal(value) for value in row.values)
        place = x(row.values[pair[0]]), y(row.values[pair[1]])
        drawn.append(
            tag("circle", tag("title", told), cx=place[0], cy=place[1], r=4.5, class_="dot top")
        )
        if row.is_chosen:
            drawn.append(tag("circle", cx=place[0], cy=place[1], r=8.5, class_="ring"))
    return drawn


def _member_marks(
    marks: Sequence[_Mark], pair: tuple[int, int], x: Scale, y: Scale
) -> list[Markup]:
    return [
        tag(
            "rect",
            tag("title", f"{mark.name}, whole"),
            x=round(x(mark.values[pair[0]]) - 5, 1),
            y=round(y(mark.values[pair[1]]) - 5, 1),
            width=10,
            height=10,
            rx=2,
            class_=mark.kind,
        )
        for mark in marks
    ]
