"""What each layer of a result is worth: differences of one-layer changes, from the record alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gptailor.core.metrics import METRICS
from gptailor.core.objective import Objective
from gptailor.core.score_table import plain_estimate
from gptailor.core.statistics import (
    N_RESAMPLES,
    Estimate,
    Floats,
    estimate,
    gaps,
    samples,
    together,
)
from gptailor.core.tailoring import BASE, LayerSpec
from gptailor.record.entries import ExplainedEntry
from gptailor.record.run_record import RunRecord
from gptailor.report.grid import Grid, difference_text
from gptailor.report.words import count

__all__ = [
    "Difference",
    "Explanation",
    "explanation",
    "explanation_grid",
    "explanation_sentence",
]

_LOSS, _PROXY = "loss", "proxy loss"  # weighted means over the tasks, relative to the base
_AWAY = "dropped, or\nput back"  # a layer is either there or cut, so they share a column


@dataclass(frozen=True, slots=True)
class Difference:
    """A changed model's number less the result's, on the same examples."""

    alone: Estimate  # 95 % by itself
    together: Estimate  # 95 % for all changes (and tasks, if of one task) at once; see `together`


@dataclass(frozen=True, slots=True)
class Explanation:
    """The result of a run with one layer changed, in every way that was scored."""

    changes: tuple[ExplainedEntry, ...]  # with scores
    # column to the differences, one a change: `loss`, `proxy loss`, and `TASK METRIC`
    columns: Mapping[str, tuple[Difference, ...]]
    higher_is_better: Mapping[str, bool]  # by column
    n_examples: int  # of all tasks together
    notes: tuple[str, ...]

    @property
    def totals(self) -> tuple[str, ...]:
        """The columns that are means over the tasks."""
        return tuple(name for name in self.columns if name in (_LOSS, _PROXY))

    @property
    def of_tasks(self) -> tuple[str, ...]:
        """The columns that are of one task each."""
        return tuple(name for name in self.columns if name not in self.totals)

    def to_plain(self) -> list[dict[str, Any]]:
        """The JSON form, an object a change; infinite numbers are None."""
        plain = []
        for row, entry in enumerate(self.changes):
            columns = {
                name: plain_estimate("difference", found[row].alone, "interval")
                | {"together": plain_estimate("x", found[row].together)["x_interval"]}
                for name, found in self.columns.items()
            }
            keys = {"position", "change", "member"}
            plain.append(
                entry.model_dump(include=keys)
                | {"tailoring": entry.tailoring.digest, "differences": columns}
            )
        return plain


def explanation(run: RunRecord, *, n_resamples: int = N_RESAMPLES) -> Explanation | None:
    """Compare the changes of a run's result with the result; None before any was scored."""
    chosen, on_test = run.chosen, run.on_test
    scored = tuple(entry for entry in run.explained if entry.scores is not None)
    if chosen is None or not scored or chosen.number not in on_test or BASE not in on_test:
        return None
    objective = Objective(run.goals, on_test[BASE])
    models = [on_test[chosen.number], *(e.scores for e in scored if e.scores is not None)]
    drawn: dict[str, list[Floats]] = {}
    better = {_LOSS: False, _PROXY: False}
    for column, proxy in ((_LOSS, False), (_PROXY, True)):
        metrics = [goal.measured(proxy=True) if proxy else goal.metric for goal in run.goals]
        if proxy and metrics == [goal.metric for goal in run.goals]:
            continue
        rng, total = np.random.default_rng(0), [np.zeros(n_resamples + 1) for _ in scored]
        worst, worst_weight = [np.full(n_resamples + 1, -np.inf) for _ in models], 0.0
        for goal, metric, weight in zip(run.goals, metrics, objective.weights, strict=True):
            measured = [scores.tasks[goal.task][metric] for scores in models]
            sampled = samples(measured, n_resamples, rng)
            apart = [gaps(other, sampled[0]) for other in sampled[1:]]
            if goal.worst:
                worst = [np.maximum(*pair) for pair in zip(worst, sampled, strict=True)]
                worst_weight += weight
            else:
                total = _plus(total, weight / objective.unit(goal, metric), apart)
            name = f"{goal.task} {metric}"
            drawn[name], better[name] = apart, METRICS[metric].higher_is_better
        drawn[column] = _plus(total, worst_weight, [gaps(other, worst[0]) for other in worst[1:]])
    notes = [f"{_change_words(entry)}: {entry.failure}" for entry in run.explained if entry.failure]
    order = [name for name in better if name in drawn]
    columns = dict(zip(order, _differences([drawn[name] for name in order], order), strict=True))
    n_examples = models[0].total_examples
    return Explanation(scored, columns, better, n_examples, tuple(notes))


def _plus(total: list[Floats], factor: float, apart: list[Floats]) -> list[Floats]:
    return [so_far + factor * one for so_far, one in zip(total, apart, strict=True)]


def _differences(
    drawn: Sequence[list[Floats]], names: Sequence[str]
) -> list[tuple[Difference, ...]]:
    """Intervals by column: those of each total hold together, and those of all tasks' columns."""
    bands: dict[int, list[Estimate]] = {}
    tasks = [index for index, name in enumerate(names) if name not in (_LOSS, _PROXY)]
    for group in (*([i] for i in range(len(names)) if i not in tasks), tasks):
        found = together([one for index in group for one in drawn[index]])
        n = len(drawn[0])
        bands |= {index: found[k * n : (k + 1) * n] for k, index in enumerate(group)}
    return [
        tuple(Difference(estimate(o), b) for o, b in zip(column, bands[index], strict=True))
        for index, column in enumerate(drawn)
    ]


def explanation_grid(run: RunRecord, found: Explanation, column: str) -> Grid:
    """One column of differences as a table: a row a layer of the whole model, a column a change."""
    result = run.result
    assert result is not None, "an explanation is of a result"
    specs = {spec.position: spec for spec in result.layers}
    heads = {f"from {member}": member for member in run.header.family.members}
    heads |= {_AWAY: _AWAY, "fitted again": "fitted again"}
    cells: dict[int, dict[str, str]] = {}
    for entry, difference in zip(found.changes, found.columns[column], strict=True):
        text = difference_text(difference.together, higher_is_better=found.higher_is_better[column])
        head = entry.member or (_AWAY if entry.change in _AWAY else entry.change)
        cells.setdefault(entry.position, {})[head] = text or "equal"
    shown = [head for head, key in heads.items() if any(key in row for row in cells.values())]
    rows = tuple(
        (f"{position}\n{_made(specs.get(position))}", *(row.get(heads[h], "") for h in shown))
        for position, row in sorted(cells.items())
    )
    return Grid(f"{column}, less that of the result", ("layer", *shown), rows)


def explanation_sentence(found: Explanation) -> str:
    """How many changes make the result surely worse or better, by each total."""
    parts = []
    for column in found.totals:
        rows = [one.together for one in found.columns[column]]
        worse, good = sum(r.low > 0 for r in rows), sum(r.high < 0 for r in rows)
        parts.append(f"by the {column} {worse} are worse and {good} better")
    n = count(len(found.changes), "change")
    return f"Of {n} of one layer, {'; '.join(parts)}, beyond what chance can do to so many."


def _made(spec: LayerSpec | None) -> str:
    """How a layer of the result is made, in a few letters."""
    if spec is None:
        return "cut"
    made = " + ".join(dict.fromkeys(source.member for source in spec.sources))
    return f"{made}, fitted" if spec.fitted is not None else made


def _change_words(entry: ExplainedEntry) -> str:
    taken = f"taken from {entry.member}" if entry.member else entry.change
    return f"layer {entry.position} {taken}"
