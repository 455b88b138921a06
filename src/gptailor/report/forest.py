"""The scores as a picture: what is kept of the base's score, task by task, with intervals.

Knows nothing of where the scores come from.
"""

from collections.abc import Sequence

from markupsafe import Markup

from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE
from gptailor.report.scores import RESULT, Row, ScoreTable
from gptailor.report.svg import Scale, picture, tag, text
from gptailor.report.words import percent

__all__ = ["forest"]

_WIDTH, _RIGHT = 1040.0, 1020.0
_ROW, _TOP = 30.0, 12.0
_WIDEST = 2.5  # above 250% the number in the table must do


def forest(table: ScoreTable, members: Sequence[str]) -> Markup | None:
    """Draw the result's retention as dots with whiskers, the variants' as small squares.

    Args:
        table: Scores with the base and the result among them.
        members: The family in order, for the colours.

    Returns:
        None where nothing is kept of anything: no base or no result, or a base that scored 0.
    """
    result = table.result
    names = [column.task for column in table.columns]
    if result is None or not any(_retentions(result)):
        return None
    others = [row for row in table.rows if row.name not in (BASE, RESULT)]
    lines = [(name, index) for index, name in enumerate(names)]
    if len(names) > 1:
        lines.append(("average", len(names)))
    left = 24.0 + 7.0 * max(len(_short(name)) for name, _ in lines)
    x = _scale([result, *others], left)
    foot = _TOP + _ROW * len(lines)
    drawn = _axis(x, foot)
    for row, (name, index) in enumerate(lines):
        y = _TOP + _ROW * (row + 0.5)
        strong = " strong" if name == "average" and index == len(names) else ""
        drawn.append(text(left - 12, y + 4, _short(name), class_=f"tick end{strong}"))
        drawn += [
            _square(x, y, _retentions(other)[index], other.name, members)
            for other in others
            if _retentions(other)[index] is not None
        ]
        kept = _retentions(result)[index]
        if kept is not None:
            drawn += _whisker(x, y, kept, name)
        else:
            drawn.append(text(x(1.0) + 8, y + 4, "the base scored 0", class_="note"))
    about = "A line at 100% is the base. " + " ".join(
        f"{name}: {_told(_retentions(result)[index])}." for name, index in lines
    )
    title = "Share of the base's score that the result keeps"
    return picture(_WIDTH, foot + 42, drawn, title=title, about=about)


def _retentions(row: Row) -> list[Estimate | None]:
    """One a column, and the average last."""
    return [None if cell is None else cell.retention for cell in row.cells] + [row.average]


def _scale(rows: Sequence[Row], left: float) -> Scale:
    values = [1.0]
    for row in rows:
        for kept in _retentions(row):
            if kept is not None:
                limits = [kept.low, kept.high] if row.name == RESULT else []
                values += [min(max(value, 0.0), _WIDEST) for value in [kept.value, *limits]]
    margin = 0.05 * (max(values) - min(values)) or 0.1
    return Scale(min(values) - margin, max(values) + margin, left, _RIGHT)


def _axis(x: Scale, foot: float) -> list[Markup]:
    drawn = []
    for value in x.ticks(8):
        place = x(value)
        kind = "base-line" if abs(value - 1) < 1e-9 else "grid"
        if kind == "grid":
            drawn.append(tag("line", x1=place, x2=place, y1=_TOP, y2=foot, class_=kind))
        drawn.append(text(place, foot + 16, f"{value:.4g}".replace("nan", ""), class_="tick mid"))
    drawn.append(tag("line", x1=x(1.0), x2=x(1.0), y1=_TOP, y2=foot, class_="base-line"))
    words = "share of the base's score (1 = the base)"
    drawn.append(text((x.start + x.stop) / 2, foot + 36, words, class_="axis mid"))
    return drawn


def _square(x: Scale, y: float, kept: Estimate | None, name: str, members: Sequence[str]) -> Markup:
    assert kept is not None, "checked by the caller"
    row = members.index(name) % 9 if name in members else 0
    return tag(
        "rect",
        tag("title", f"{name}: {_told(kept)}"),
        x=round(x(kept.value) - 4, 1),
        y=y - 4,
        width=8,
        height=8,
        rx=1.5,
        class_=f"m{row}",
    )


def _whisker(x: Scale, y: float, kept: Estimate, name: str) -> list[Markup]:
    low, high = x(kept.low), x(kept.high)
    return [
        tag("line", x1=low, x2=high, y1=y, y2=y, class_="whisker"),
        tag("line", x1=low, x2=low, y1=y - 4, y2=y + 4, class_="whisker"),
        tag("line", x1=high, x2=high, y1=y - 4, y2=y + 4, class_="whisker"),
        tag(
            "circle",
            tag("title", f"result, {name}: {_told(kept)}"),
            cx=x(kept.value),
            cy=y,
            r=5,
            class_="dot top",
        ),
    ]


def _told(kept: Estimate | None) -> str:
    if kept is None:
        return "not known"
    return f"{percent(kept.value)} ({percent(kept.low)} to {percent(kept.high)})"


def _short(name: str) -> str:
    return name if len(name) <= 26 else name[:25] + "…"
