"""The page of a depth ladder: quality against size, with baselines that were run on it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from gptailor.core.score_table import Share, score_table
from gptailor.core.statistics import RESULT, Estimate
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Scores
from gptailor.record.ladder_folder import ladder_of
from gptailor.record.run_record import RunRecord, read_run
from gptailor.report.baselines import run_baselines
from gptailor.report.chat_use import chat_use
from gptailor.report.scores import parameters_of
from gptailor.report.svg import Axes, Scale, dot, path, picture, tag, text
from gptailor.report.words import amount, count, share_lines, shares_text

__all__ = ["LadderRow", "curve", "ladder_facts", "ladder_rows"]

_WIDTH, _HEIGHT = 860.0, 430.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 64.0, 660.0, 20.0, 370.0


@dataclass(frozen=True, slots=True)
class LadderRow:
    """One model of a ladder, on the test split."""

    line: str  # ``result``, or a baseline's name and member
    depth: int  # layers cut
    parameters: int | None
    kept: Estimate  # share of the base's score, mean over the tasks
    shares: tuple[Share | None, ...]  # of the base, and of the best member
    folder: Path

    @property
    def lines(self) -> list[tuple[str, str]]:
        """The shares and their intervals in words."""
        return share_lines(*self.shares)


def ladder_facts(folder: Path, runs: Mapping[int, Path]) -> dict[str, Any]:
    """Everything the template shows."""
    records = [read_run(each) for each in runs.values()]
    baselines = [
        read_run(each) for inner in sorted(folder.iterdir()) for each in ladder_of(inner).values()
    ]
    rows = [row for run in [*records, *baselines] for row in ladder_rows(run)]
    done = {row.depth for row in rows if row.line == RESULT}
    layer_tokens = [run.spent.layer_tokens for run in records if run.spent is not None]
    return {
        "name": folder.resolve().name,
        "header": records[0].header,
        "chat": chat_use(records[0].header).about,
        "rows": rows,
        "links": {each: f"{each.relative_to(folder)}/report.html" for each in runs.values()},
        "open": [depth for depth in runs if depth not in done],
        "guards": [
            (depth, run.chosen.guard)
            for depth, run in zip(runs, records, strict=True)
            if run.chosen is not None and run.chosen.guard is not None
        ],
        "curve": curve(rows),
        "layer_tokens": sum(layer_tokens),
    }


def ladder_rows(run: RunRecord) -> Iterator[LadderRow]:
    """The result of a run, or its baselines, as scored on unseen examples; none before that."""
    header = run.header
    named: dict[str, tuple[Tailoring, Scores]] = {}
    if run.baselines:
        for each in run_baselines(run):
            if each.trial is not None and (scores := run.on_test.get(each.trial.number)):
                named[each.name] = each.trial.tailoring, scores
    elif run.result is not None and RESULT in run.test_scores:
        named[RESULT] = run.result, run.test_scores[RESULT]
    members = {name: run.test_scores[name] for name in header.family.members if name in run.on_test}
    if not named or BASE not in members:
        return
    table = score_table(
        members | {name: scores for name, (_, scores) in named.items()},
        {goal.task: goal.metric for goal in run.goals},
        chances=header.chances("test"),
        members=header.family.members,
    )
    for name, (tailoring, _) in named.items():
        mean = table.means[name]
        if mean.of_base is not None and mean.of_base.kept is not None:
            depth = header.family.n_layers - header.n_kept
            size, shares = parameters_of([run], tailoring), (mean.of_base, mean.of_best)
            yield LadderRow(name, depth, size, mean.of_base.kept, shares, run.folder)


def curve(rows: Sequence[LadderRow]) -> Markup | None:
    """Draw the share of the base's score against parameters; None where there are no points."""
    points = [row for row in rows if row.parameters is not None]
    if not points:
        return None
    sizes = [float(row.parameters or 0) for row in points]
    margin = 0.05 * (max(sizes) - min(sizes)) or 1.0
    lows, highs = [row.kept.low for row in points], [row.kept.high for row in points]
    axes = Axes(
        Scale(min(sizes) - margin, max(sizes) + margin, _LEFT, _RIGHT),
        Scale(max(0.0, min(lows) - 0.03), min(2.0, max([*highs, 1.0]) + 0.03), _BOTTOM, _TOP),
    )
    drawn = [*axes.rows(), axes.horizontal(1.0, "base-line")]
    drawn += axes.x_ticks(axes.x.ticks(6), _BOTTOM, amount)
    drawn.append(axes.x_label("parameters", _BOTTOM))
    for name in dict.fromkeys(row.line for row in points):
        line = [row for row in points if row.line == name]
        drawn += _line(axes, name, sorted(line, key=lambda row: row.parameters or 0))
    about = (
        f"Across: parameters; upwards: share of the base's score. {count(len(points), 'model')}."
    )
    return picture(_WIDTH, _HEIGHT, drawn, title="Quality against size", about=about)


def _line(axes: Axes, name: str, rows: Sequence[LadderRow]) -> list[Markup]:
    """One line of a curve; baselines are grey, and named at their largest model."""
    chosen = name == RESULT
    places = [(axes.x(float(row.parameters or 0)), axes.y(row.kept.value)) for row in rows]
    drawn = [path(places, class_="best" if chosen else "thread")]
    for row, (x, y) in zip(rows, places, strict=True):
        low, high = axes.y(row.kept.low), axes.y(row.kept.high)
        class_ = "whisker" if chosen else "thread"
        drawn.append(tag("line", x1=x, x2=x, y1=low, y2=high, class_=class_))
        title = f"{name}, {count(row.depth, 'layer')} cut: {shares_text(*row.shares)}"
        drawn.append(dot(x, y, 5 if chosen else 4, "dot top" if chosen else "dot", title))
    x, y = places[-1]
    drawn.append(text(x + 10, y + 4, name, class_="note strong" if chosen else "note"))
    return drawn
