"""The scores as a picture: the share of the base's score that is kept, with intervals."""

from collections.abc import Iterable, Sequence

from markupsafe import Markup

from gptailor.core.score_table import MeanRow, ScoreRow, ScoreTable
from gptailor.core.statistics import RESULT, Estimate
from gptailor.core.tailoring import BASE
from gptailor.report.svg import Axes, Scale, dot, picture, square, tag, text
from gptailor.report.words import shares_text, shortened

__all__ = ["forest"]

_WIDTH, _RIGHT = 1040.0, 1020.0
_ROW, _TOP = 30.0, 12.0
_WIDEST = 2.5  # larger shares are drawn at the end of the scale


def forest(table: ScoreTable, members: Sequence[str]) -> Markup | None:
    """Draw the result's retention as dots with whiskers, the variants' as small squares.

    The family's members in order set the colours. None where there is no retention: no base or no
    result, or a base that scored 0.
    """
    tasks = [row.task for row in table.tasks]
    found = {
        model: [*(table.row(model, task) for task in tasks), table.means.get(model)]
        for model in table.models
        if model != BASE
    }
    kept = {
        model: [row.of_base.kept if row and row.of_base else None for row in rows]
        for model, rows in found.items()
    }
    result = kept.pop(RESULT, [])
    if not any(result):
        return None
    names = [*(shortened(task, 26) for task in tasks), *(["average"] if len(tasks) > 1 else [])]
    left = 24.0 + 7.0 * max(map(len, names))
    foot = _TOP + _ROW * len(names)
    axes = Axes(_scale(result, kept.values(), left), Scale(0.0, len(names), _TOP, foot))
    drawn = [*axes.columns(8), axes.vertical(1.0, "base-line")]
    drawn.append(axes.x_label("share of the base's score (1 = the base)", foot))
    for index, name in enumerate(names):
        y = axes.y(index + 0.5)
        strong = " strong" if index == len(tasks) else ""
        drawn.append(text(left - 12, y + 4, name, class_=f"tick end{strong}"))
        for model, shares in kept.items():
            share, color = shares[index], members.index(model) % 9 if model in members else 0
            if share is not None:
                title = f"{model}: {_words(found[model][index])}"
                drawn.append(square(axes.x(share.value), y, 8, f"m{color}", title))
        share = result[index]
        if share is None:
            drawn.append(text(axes.x(1.0) + 8, y + 4, "the base scored 0", class_="note"))
        else:
            low, high = axes.x(share.low), axes.x(share.high)
            ends = ((low, high, 0), (low, low, 4), (high, high, 4))
            drawn += [
                tag("line", x1=start, x2=stop, y1=y - half, y2=y + half, class_="whisker")
                for start, stop, half in ends
            ]
            title = f"result, {name}: {_words(found[RESULT][index])}"
            drawn.append(dot(axes.x(share.value), y, 5, "dot top", title))
    about = "A line at 100% is the base. " + " ".join(
        f"{name}: {_words(row)}." for name, row in zip(names, found[RESULT], strict=False)
    )
    title = "Share of the base's score that the result keeps"
    return picture(_WIDTH, foot + 42, drawn, title=title, about=about)


def _scale(
    result: Sequence[Estimate | None], others: Iterable[Sequence[Estimate | None]], left: float
) -> Scale:
    values = [end for share in result if share for end in (share.low, share.high)]
    values += [share.value for shares in (result, *others) for share in shares if share]
    shown = [1.0, *(min(max(value, 0.0), _WIDEST) for value in values)]
    margin = 0.05 * (max(shown) - min(shown)) or 0.1
    return Scale(min(shown) - margin, max(shown) + margin, left, _RIGHT)


def _words(row: ScoreRow | MeanRow | None) -> str:
    """The share of the base's score and that above chance."""
    share = None if row is None else row.of_base
    return "not known" if share is None or share.kept is None else shares_text(share)
