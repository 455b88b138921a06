"""A table of text, and how estimates and differences are written in its cells."""

from collections.abc import Callable
from dataclasses import dataclass

from gptailor.core.score_table import Share
from gptailor.core.statistics import Estimate
from gptailor.report.words import decimal, interval, percent

__all__ = ["Grid", "difference_text", "estimated", "share_cells"]


@dataclass(frozen=True, slots=True)
class Grid:
    """A table of text; the lines of a cell are separated by newlines, the first cell is a name."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def difference_text(found: Estimate | None, *, higher_is_better: bool) -> str:
    """A difference with its limits, and which side of 0 both are on."""
    if found is None or (found.is_point and found.value == 0):
        return ""
    text = estimated(found, lambda value: f"{'+' if value > 0 else ''}{decimal(value)}")
    if found.low > 0 or found.high < 0:
        text += "\nbetter" if (found.low > 0) == higher_is_better else "\nworse"
    return text


def estimated(
    found: Estimate | None,
    form: Callable[[float], str],
    limits: Callable[[float], str] | None = None,
) -> str:
    """A value above its limits; "" where there is none."""
    return "" if found is None else f"{form(found.value)}\n{interval(found, limits or form)}"


def share_cells(share: Share | None) -> tuple[str, str]:
    """The share of a member's score, and that above chance."""
    if share is None:
        return "", ""
    kept, above = (estimated(one, percent, _whole) for one in (share.kept, share.above_chance))
    return kept, "at chance" if share.at_chance else above


def _whole(share: float) -> str:
    return percent(share, digits=0)
