"""Draw inline SVG: elements, marks, scales and axes.

Every text and attribute is escaped, so the result is safe to put into a page. Colours are left to
the page's style sheet.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = [
    "Axes",
    "Panel",
    "Scale",
    "dot",
    "dots",
    "path",
    "picture",
    "square",
    "tag",
    "text",
    "ticks",
]


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; ``class_`` stands for ``class`` and ``stroke_width`` for ``stroke-width``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_format(value))}"'
        for key, value in attributes.items()
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{given}>{inside}</{name}>")


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    """A line of text."""
    return tag("text", words, x=x, y=y, **attributes)


def path(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """A line through points."""
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{steps}", **attributes)


def dot(x: float, y: float, r: float, class_: str, title: str = "") -> Markup:
    """A circle, with a text on hovering."""
    titles = [tag("title", title)] if title else []
    return tag("circle", *titles, cx=round(x, 1), cy=round(y, 1), r=r, class_=class_)


def square(x: float, y: float, size: float, class_: str, title: str) -> Markup:
    """A square around a point, with a text on hovering."""
    corner = {"x": round(x - size / 2, 1), "y": round(y - size / 2, 1)}
    return tag("rect", tag("title", title), **corner, width=size, height=size, rx=2, class_=class_)


def dots(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """Many dots in one element, 15 bytes each: round-capped strokes of no length."""
    return tag("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points), **attributes)


def picture(
    width: float, height: float, children: Sequence[Markup], *, title: str, about: str
) -> Markup:
    """A whole picture, with a name and a description for screen readers."""
    return tag(
        "svg",
        tag("title", title),
        tag("desc", about),
        *children,
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
        aria_label=title,
        style=f"max-width:{width:g}px",
    )


@dataclass(frozen=True, slots=True)
class Panel:
    """One of several pictures that the reader switches between."""

    name: str
    label: str
    svg: Markup


@dataclass(frozen=True, slots=True)
class Scale:
    """A linear map from values to pixels."""

    low: float  # the value at `start`
    high: float  # the value at `stop`
    start: float  # pixels
    stop: float  # pixels; below `start` for an axis that points up

    def __call__(self, value: float) -> float:
        """The pixel of a value; values outside are put at the nearer end."""
        if self.high == self.low:
            return (self.start + self.stop) / 2
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """About n round values within the limits."""
        return ticks(self.low, self.high, n)


@dataclass(frozen=True, slots=True)
class Axes:
    """Two scales, and the lines and labels around what is drawn by them."""

    x: Scale
    y: Scale

    @property
    def foot(self) -> float:
        """The lower end, in pixels."""
        return max(self.y.start, self.y.stop)

    def vertical(self, value: float, class_: str = "grid") -> Markup:
        """A line from top to bottom."""
        x, top = self.x(value), min(self.y.start, self.y.stop)
        return tag("line", x1=x, x2=x, y1=top, y2=self.foot, class_=class_)

    def horizontal(self, value: float, class_: str = "grid") -> Markup:
        """A line from left to right."""
        y = self.y(value)
        return tag("line", x1=self.x.start, x2=self.x.stop, y1=y, y2=y, class_=class_)

    def columns(self, n: int = 5) -> list[Markup]:
        """Vertical lines at round values, labelled below."""
        values = self.x.ticks(n)
        return [*map(self.vertical, values), *self.x_ticks(values, self.foot)]

    def rows(self) -> list[Markup]:
        """Horizontal lines at round values, labelled on the left."""
        values, left = self.y.ticks(), min(self.x.start, self.x.stop) - 8
        labels = [text(left, self.y(v) + 4, f"{v:g}", class_="tick end") for v in values]
        return [*map(self.horizontal, values), *labels]

    def x_ticks(
        self, values: Iterable[float], y: float, form: Callable[[float], str] = "{:g}".format
    ) -> list[Markup]:
        """Labels of values, below `y`."""
        return [text(self.x(v), y + 17, form(v), class_="tick mid") for v in values]

    def x_label(self, words: str, y: float) -> Markup:
        """What the axis across measures, in the middle below `y`."""
        return text((self.x.start + self.x.stop) / 2, y + 36, words, class_="axis mid")


def ticks(low: float, high: float, n: int = 5) -> list[float]:
    """About n round values from low to high.

    Example:
        >>> ticks(0.0, 1.0)
        [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]
    """
    span = high - low
    if not span > 0 or not math.isfinite(span):
        return [low]
    rough = span / n
    unit = 10.0 ** math.floor(math.log10(rough))
    step = next((m * unit for m in (1, 2, 2.5, 5, 10) if m * unit >= rough * 0.999), 10 * unit)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def _format(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
