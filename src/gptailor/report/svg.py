"""Draw: elements, scales and axes of inline SVG.

Every text and attribute is escaped on its way in, so what comes out is safe to put into a page.
Colours are left to the page's style sheet. Knows nothing of runs.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

__all__ = ["Scale", "dots", "path", "picture", "tag", "text", "ticks"]


def tag(name: str, *children: str | Markup, **attributes: object) -> Markup:
    """One element; ``class_`` stands for ``class`` and ``stroke_width`` for ``stroke-width``."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(_told(value))}"'
        for key, value in attributes.items()
    )
    inside = "".join(escape(child) for child in children)
    return Markup(f"<{name}{given}>{inside}</{name}>")


def text(x: float, y: float, words: str, **attributes: object) -> Markup:
    """A line of text at a place."""
    return tag("text", words, x=x, y=y, **attributes)


def path(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """A line through points."""
    steps = " L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    return tag("path", d=f"M{steps}", **attributes)


def dots(points: Iterable[tuple[float, float]], **attributes: object) -> Markup:
    """Many dots in one element, 15 bytes each: round-capped strokes of no length."""
    return tag("path", d="".join(f"M{x:.1f} {y:.1f}h0" for x, y in points), **attributes)


def picture(
    width: float, height: float, children: Sequence[Markup], *, title: str, about: str
) -> Markup:
    """A whole picture, with a name and a description for who can't see it."""
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
class Scale:
    """A linear map from values to places on the page.

    Args:
        low: The value at `start`.
        high: The value at `stop`.
        start: Pixels.
        stop: Pixels; below `start` for an axis that points up.
    """

    low: float
    high: float
    start: float
    stop: float

    def __call__(self, value: float) -> float:
        """The place of a value; values outside are put at the nearer end."""
        if self.high == self.low:
            return (self.start + self.stop) / 2
        share = (value - self.low) / (self.high - self.low)
        return self.start + min(max(share, 0.0), 1.0) * (self.stop - self.start)

    def ticks(self, n: int = 5) -> list[float]:
        """About n round values within the limits."""
        return ticks(self.low, self.high, n)


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


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
