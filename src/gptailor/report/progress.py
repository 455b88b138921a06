"""The search's progress: every trial as a dot, and the best so far as a line.

Knows nothing of how candidates were proposed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup

from gptailor.record.run import RunRecord
from gptailor.report.svg import Scale, path, picture, tag, text, ticks
from gptailor.report.words import amount, count, decimal, duration

__all__ = ["Panel", "Point", "Progress", "progress", "rung_radius"]

_WIDTH, _HEIGHT = 1040.0, 340.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 56.0, 1024.0, 24.0, 282.0
_FAILED_Y = 296.0
_TITLED = 1500  # dots with a text on hovering; beyond, the page would grow by 100 bytes a dot


@dataclass(frozen=True, slots=True)
class Point:
    """One trial as it is drawn.

    Args:
        number: Of the trial.
        n_examples: Examples a task it was tried on.
        loss: By the user's own metrics; None if it failed.
        layer_tokens: Spent by the search up to and with this trial.
        elapsed: Seconds of search when it was told.
        is_able: Whether it may be chosen: the size wanted, on the most examples.
        origin: How the searcher came to it.
    """

    number: int
    n_examples: int
    loss: float | None
    layer_tokens: int
    elapsed: float
    is_able: bool
    origin: str


@dataclass(frozen=True, slots=True)
class Panel:
    """The same trials over one measure of effort."""

    name: str
    label: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Progress:
    """The whole story of the search.

    Args:
        points: One a trial.
        rungs: The numbers of examples in use, rising.
        panels: Over trials, over compute and over time.
        n_beyond: Trials worse than the scale shows.
    """

    points: tuple[Point, ...]
    rungs: tuple[int, ...]
    panels: tuple[Panel, ...]
    n_beyond: int


def progress(run: RunRecord) -> Progress | None:
    """Draw the search; None where there is nothing to draw."""
    points = _points(run)
    losses = [point.loss for point in points if point.loss is not None]
    if not losses:
        return None
    rungs = tuple(sorted({p.n_examples for p in points if p.loss is not None}))
    top = [p.loss for p in points if p.is_able and p.loss is not None]
    low, high = _limits(losses, top or losses)
    chart = _Chart(points, rungs, low, high, None if run.chosen is None else run.chosen.number)
    panels = (
        Panel("trials", "trials", chart.draw("trial", lambda p: p.number + 1.0, amount)),
        Panel(
            "compute",
            "compute",
            chart.draw("layer-tokens run so far", lambda p: float(p.layer_tokens), amount),
        ),
        Panel("time", "time", chart.draw("time of search", lambda p: p.elapsed, duration)),
    )
    return Progress(points, rungs, panels, sum(loss > high for loss in losses))


def _points(run: RunRecord) -> tuple[Point, ...]:
    objective = run.objective
    if objective is None:
        return ()
    able = {trial.number for trial in run.able}
    points, spent = [], 0
    for trial in run.trials:
        spent += trial.layer_tokens
        loss = None if trial.scores is None else objective.scalar(trial.scores)
        points.append(
            Point(
                trial.number,
                trial.proposal.n_examples,
                loss,
                layer_tokens=spent,
                elapsed=run.elapsed[trial.number],
                is_able=trial.number in able,
                origin=trial.proposal.origin,
            )
        )
    return tuple(points)


def _limits(losses: Sequence[float], top: Sequence[float]) -> tuple[float, float]:
    """From the best, or the base at 0, to where nine in ten lie: a few broken ones hide nothing."""
    finite = [loss for loss in losses if np.isfinite(loss)] or [1.0]
    high = max(float(np.quantile(finite, 0.9)), float(np.median([min(t, 10.0) for t in top])))
    low = min(*finite, 0.0) if len(finite) > 1 else min(finite[0], 0.0)
    margin = 0.06 * (high - low) or 0.1
    return low - margin, max(high, 0.0) + margin


@dataclass(frozen=True, slots=True)
class _Chart:
    points: tuple[Point, ...]
    rungs: tuple[int, ...]
    low: float
    high: float
    chosen: int | None

    def draw(
        self, label: str, measure: Callable[[Point], float], told: Callable[[float], str]
    ) -> Markup:
        last = max(measure(point) for point in self.points)
        x = Scale(0.0, last or 1.0, _LEFT, _RIGHT)
        y = Scale(self.low, self.high, _BOTTOM, _TOP)
        failed = [point for point in self.points if point.loss is None]
        drawn = [
            *self._axes(x, y, label, told, lane=bool(failed)),
            *(self._dot(point, x(measure(point)), y) for point in self._by_rung()),
            *(_cross(x(measure(p)), _FAILED_Y, self._title(p)) for p in failed),
            *self._best_line(x, y, measure),
            *self._ring(x, y, measure),
        ]
        about = (
            f"{count(len(self.points), 'trial')}; across: {label}; upwards: loss, where 0 is as "
            "good as the base and lower is better."
        )
        return picture(
            _WIDTH, _HEIGHT, drawn, title=f"Loss of every trial over {label}", about=about
        )

    def _by_rung(self) -> list[Point]:
        """Trials on more examples are drawn over those on fewer."""
        return sorted((p for p in self.points if p.loss is not None), key=lambda p: p.n_examples)

    def _axes(
        self, x: Scale, y: Scale, label: str, told: Callable[[float], str], *, lane: bool
    ) -> list[Markup]:
        foot = _FAILED_Y + 10 if lane else _BOTTOM
        drawn = [text(_LEFT - 44, _TOP - 10, "loss", class_="axis")]
        for value in y.ticks():
            place = y(value)
            drawn.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=place, y2=place, class_="grid"))
            drawn.append(text(_LEFT - 8, place + 4, f"{value:g}", class_="tick end"))
        if self.low < 0 < self.high:
            drawn.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=y(0.0), y2=y(0.0), class_="base-line"))
            drawn.append(text(_LEFT + 4, y(0.0) - 5, "as good as the base", class_="note"))
        for value in _round_times(x.high) if told is duration else x.ticks(8):
            place = x(value)
            drawn.append(tag("line", x1=place, x2=place, y1=foot, y2=foot + 4, class_="axis-line"))
            drawn.append(text(place, foot + 17, told(value), class_="tick mid"))
        drawn.append(tag("line", x1=_LEFT, x2=_RIGHT, y1=foot, y2=foot, class_="axis-line"))
        drawn.append(text((_LEFT + _RIGHT) / 2, foot + 33, label, class_="axis mid"))
        if lane:
            drawn.append(text(_LEFT - 8, _FAILED_Y + 4, "failed", class_="tick end"))
        return drawn

    def _dot(self, point: Point, x: float, y: Scale) -> Markup:
        loss = point.loss if point.loss is not None else self.high
        rung = self.rungs.index(point.n_examples)
        kind = "dot top" if point.is_able else "dot"
        if loss > self.high:
            kind += " beyond"
        titled = len(self.points) <= _TITLED or point.is_able
        return tag(
            "circle",
            *([tag("title", self._title(point))] if titled else []),
            cx=round(x, 1),
            cy=round(y(loss), 1),
            r=rung_radius(rung, len(self.rungs)),
            class_=kind,
        )

    def _best_line(self, x: Scale, y: Scale, measure: Callable[[Point], float]) -> list[Markup]:
        """Steps down at every new best of those that may be chosen."""
        bests: list[tuple[float, float]] = []
        for point in self.points:
            better = point.loss is not None and (not bests or point.loss < bests[-1][1])
            if point.is_able and point.loss is not None and better:
                bests.append((measure(point), point.loss))
        if not bests:
            return []
        bests.append((x.high, bests[-1][1]))
        steps = [(x(bests[0][0]), y(bests[0][1]))]
        for (_, before), (place, after) in pairwise(bests):
            steps += [(x(place), y(before)), (x(place), y(after))]
        return [path(steps, class_="best")]

    def _ring(self, x: Scale, y: Scale, measure: Callable[[Point], float]) -> list[Markup]:
        """A ring around the chosen trial."""
        for point in self.points:
            if point.number == self.chosen and point.loss is not None:
                place = x(measure(point)), y(point.loss)
                anchor = "end" if place[0] > _RIGHT - 90 else "start"
                shift = -10 if anchor == "end" else 10
                ring = tag("circle", cx=place[0], cy=place[1], r=7, class_="ring")
                name = text(
                    place[0] + shift, place[1] + 17, "chosen", class_=f"note strong {anchor}"
                )
                return [ring, name]
        return []

    @staticmethod
    def _title(point: Point) -> str:
        how = f"; {point.origin}" if point.origin else ""
        scored = "failed" if point.loss is None else f"loss {decimal(point.loss)}"
        return (
            f"trial {point.number}, {count(point.n_examples, 'example')} a task: {scored}{how}; "
            f"after {amount(point.layer_tokens)} layer-tokens and {duration(point.elapsed)}"
        )


def rung_radius(rung: int, n_rungs: int) -> float:
    """Pixels: the more examples, the larger the dot."""
    return 3.8 if rung == n_rungs - 1 else round(2.0 + 1.2 * rung / max(n_rungs - 1, 1), 2)


def _cross(x: float, y: float, title: str) -> Markup:
    arms = f"M{x - 3:.1f} {y - 3:.1f}l6 6m0 -6l-6 6"
    return tag("path", tag("title", title), d=arms, class_="cross")


def _round_times(last: float) -> list[float]:
    """Ticks at whole seconds, minutes, hours or days."""
    unit = next((u for u in (86400.0, 3600.0, 60.0) if last >= 2 * u), 1.0)
    return [value * unit for value in ticks(0.0, last / unit, 8)]
