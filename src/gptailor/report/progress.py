"""The search's progress: every trial as a dot, and the best so far as a line."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
from markupsafe import Markup

from gptailor.core.trial import Trial
from gptailor.record.run_record import RunRecord
from gptailor.report.svg import Axes, Panel, Scale, dot, path, picture, tag, text, ticks
from gptailor.report.words import amount, count, decimal, duration

__all__ = ["Point", "SearchChart", "rung_radius", "search_chart"]

_WIDTH, _HEIGHT = 1040.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 1024.0, 24.0, 282.0
_FAILED_Y = 296.0
_TITLED = 1500  # dots with a text on hovering; beyond, the page would grow by 100 bytes a dot


@dataclass(frozen=True, slots=True)
class Point:
    """One trial as it is drawn."""

    trial: Trial
    loss: float | None  # by the user's own metrics; None if it failed
    layer_tokens: int  # spent by the search up to and with this trial
    elapsed: float  # seconds of search when it was recorded
    is_able: bool  # whether it may be chosen: the size wanted, on the most examples

    @property
    def n_examples(self) -> int:
        """Examples a task that it was evaluated on."""
        return self.trial.proposal.n_examples

    @property
    def title(self) -> str:
        """What is shown on hovering."""
        origin = self.trial.proposal.origin
        outcome = "failed" if self.loss is None else f"loss {decimal(self.loss)}"
        return (
            f"trial {self.trial.number}, {count(self.n_examples, 'example')} a task: "
            f"{outcome}{'; ' if origin else ''}{origin}; after {amount(self.layer_tokens)} "
            f"layer-tokens and {duration(self.elapsed)}"
        )


@dataclass(frozen=True, slots=True)
class SearchChart:
    """The whole search."""

    points: tuple[Point, ...]
    rungs: tuple[int, ...]  # the numbers of examples in use, rising
    panels: tuple[Panel, ...]  # over trials, over compute and over time
    n_beyond: int  # trials worse than the scale shows


def search_chart(run: RunRecord) -> SearchChart | None:
    """Draw the search; None where there is nothing to draw."""
    points = _points(run)
    losses = [point.loss for point in points if point.loss is not None]
    if not losses:
        return None
    rungs = tuple(sorted({p.n_examples for p in points if p.loss is not None}))
    top = [p.loss for p in points if p.is_able and p.loss is not None]
    low, high = _limits(losses, top or losses)
    y = Scale(low, high, _BOTTOM, _TOP)
    chart = _Chart(points, rungs, y, None if run.chosen is None else run.chosen.number)
    panels = (
        chart.draw("trials", "trial", lambda p: p.trial.number + 1.0),
        chart.draw("compute", "layer-tokens run so far", lambda p: float(p.layer_tokens)),
        chart.draw("time", "time of search", lambda p: p.elapsed),
    )
    return SearchChart(points, rungs, panels, sum(loss > high for loss in losses))


def _points(run: RunRecord) -> tuple[Point, ...]:
    objective = run.objective
    if objective is None:
        return ()
    able = {trial.number for trial in run.able}
    spent = accumulate(trial.evaluation.layer_tokens for trial in run.trials)
    return tuple(
        Point(
            trial,
            None if trial.scores is None else objective.scalar(trial.scores),
            layer_tokens,
            elapsed=run.elapsed[trial.number],
            is_able=trial.number in able,
        )
        for trial, layer_tokens in zip(run.trials, spent, strict=True)
    )


def _limits(losses: Sequence[float], top: Sequence[float]) -> tuple[float, float]:
    """From the best, or the base at 0, to the 90 % quantile, so that outliers do not dominate."""
    finite = [loss for loss in losses if np.isfinite(loss)] or [1.0]
    high = max(float(np.quantile(finite, 0.9)), float(np.median([min(t, 10.0) for t in top])))
    low = min([*finite, 0.0])
    margin = 0.06 * (high - low) or 0.1
    return low - margin, max(high, 0.0) + margin


@dataclass(frozen=True, slots=True)
class _Chart:
    points: tuple[Point, ...]
    rungs: tuple[int, ...]
    y: Scale
    chosen: int | None

    def draw(self, name: str, label: str, measure: Callable[[Point], float]) -> Panel:
        last = max(measure(point) for point in self.points)
        axes = Axes(Scale(0.0, last or 1.0, _LEFT, _RIGHT), self.y)
        has_failed = any(point.loss is None for point in self.points)
        points = sorted(self.points, key=lambda p: (p.loss is None, p.n_examples))
        drawn = [
            *self._frame(axes, name, label, has_failed),
            *(self._dot(point, axes.x(measure(point))) for point in points),
            *self._best_line(axes, measure),
            *self._ring(axes, measure),
        ]
        about = (
            f"{count(len(self.points), 'trial')}; across: {label}; upwards: loss, where 0 is as "
            "good as the base and lower is better."
        )
        title = f"Loss of every trial over {label}"
        return Panel(name, name, picture(_WIDTH, _HEIGHT, drawn, title=title, about=about))

    def _frame(self, axes: Axes, name: str, label: str, has_failed: bool) -> list[Markup]:
        foot = _FAILED_Y + 10 if has_failed else _BOTTOM
        is_time = name == "time"
        values = _round_times(axes.x.high) if is_time else axes.x.ticks(8)
        marks = [
            tag("line", x1=axes.x(v), x2=axes.x(v), y1=foot, y2=foot + 4, class_="axis-line")
            for v in values
        ]
        drawn = [text(_LEFT - 44, _TOP - 10, "loss", class_="axis"), *axes.rows()]
        if self.y.low < 0 < self.y.high:
            drawn.append(axes.horizontal(0.0, "base-line"))
            drawn.append(text(_LEFT + 4, self.y(0.0) - 5, "as good as the base", class_="note"))
        drawn += [*marks, *axes.x_ticks(values, foot, duration if is_time else amount)]
        drawn.append(axes.x_label(label, foot))
        drawn.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=foot, y2=foot, class_="axis-line"))
        if has_failed:
            drawn.append(text(_LEFT - 8, _FAILED_Y + 4, "failed", class_="tick end"))
        return drawn

    def _dot(self, point: Point, x: float) -> Markup:
        """A trial's dot, or the cross of a failed one."""
        if point.loss is None:
            arms = f"M{x - 3:.1f} {_FAILED_Y - 3:.1f}l6 6m0 -6l-6 6"
            return tag("path", tag("title", point.title), d=arms, class_="cross")
        class_ = "dot top" if point.is_able else "dot"
        class_ += " beyond" if point.loss > self.y.high else ""
        radius = rung_radius(self.rungs.index(point.n_examples), len(self.rungs))
        is_titled = len(self.points) <= _TITLED or point.is_able
        return dot(x, self.y(point.loss), radius, class_, point.title if is_titled else "")

    def _best_line(self, axes: Axes, measure: Callable[[Point], float]) -> list[Markup]:
        """Steps down at every new best of those that may be chosen."""
        lowest = math.inf
        steps: list[tuple[float, float]] = []
        for point in self.points:
            if point.is_able and point.loss is not None and point.loss < lowest:
                x, y, lowest = axes.x(measure(point)), self.y(point.loss), point.loss
                steps += [(x, steps[-1][1]), (x, y)] if steps else [(x, y)]
        return [path([*steps, (_RIGHT, steps[-1][1])], class_="best")] if steps else []

    def _ring(self, axes: Axes, measure: Callable[[Point], float]) -> list[Markup]:
        """A ring around the chosen trial."""
        for point in self.points:
            if point.trial.number == self.chosen and point.loss is not None:
                x, y = axes.x(measure(point)), self.y(point.loss)
                anchor, shift = ("end", -10) if x > _RIGHT - 90 else ("start", 10)
                name = text(x + shift, y + 17, "chosen", class_=f"note strong {anchor}")
                return [dot(x, y, 7, "ring"), name]
        return []


def rung_radius(rung: int, n_rungs: int) -> float:
    """Pixels: the more examples, the larger the dot."""
    return 3.8 if rung == n_rungs - 1 else round(2.0 + 1.2 * rung / max(n_rungs - 1, 1), 2)


def _round_times(last: float) -> list[float]:
    """Ticks at whole seconds, minutes, hours or days."""
    unit = next((u for u in (86400.0, 3600.0, 60.0) if last >= 2 * u), 1.0)
    return [value * unit for value in ticks(0.0, last / unit, 8)]
