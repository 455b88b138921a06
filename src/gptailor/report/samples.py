"""Base, best member, last layers cut and result beside each other: scores, and what they write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from gptailor.core.metrics import METRICS
from gptailor.core.score_table import score_table
from gptailor.core.statistics import Estimate
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Scores
from gptailor.record.run_record import RunRecord
from gptailor.report.grid import Grid, difference_text
from gptailor.report.words import decimal, interval, percent

__all__ = ["SideBySide", "side_by_side"]

# of greedy texts; in the order of the rows
_FAULTS = ("repeated_4grams", "loops", "empty", "unterminated", "flip_rate", "critical_flip_rate")
_ABOUT = (
    "last_n: the base without the layers before its last one, as many as the result lacks, and "
    "nothing repaired",
    "flip rate: how often a model would write another token than the base, in the base's own texts",
    "below a share is its 95 % interval; better and worse: than the base, in pairs, beyond chance",
)


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Models beside each other, a column each."""

    scores: Grid  # on the test split
    faults: Grid  # of greedy texts
    n_prompts: int  # that the faults are of
    # each prompt that is shown, and the models' texts after it by name
    texts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...] = _ABOUT


def side_by_side(run: RunRecord) -> SideBySide | None:
    """What ``gptailor sample`` measured; None where it has not been run."""
    found = run.samples
    if found is None:
        return None
    models = {model.name: model.scores for model in found.models}
    goals = {goal.task: goal.metric for goal in run.goals}
    written = {name: _of_texts(scores) for name, scores in models.items()}
    return SideBySide(
        _scores(models, goals),
        _faults(written),
        max(scores.n_examples for scores in written.values()),
        tuple(
            (prompt, tuple((model.name, model.texts[index]) for model in found.models))
            for index, prompt in enumerate(found.prompts)
        ),
    )


def _scores(models: Mapping[str, Scores], goals: Mapping[str, str]) -> Grid:
    table = score_table(models, goals)
    rows = [("score kept, mean", *(_cell(table.averages.get(name), percent) for name in models))]
    for task, metric in goals.items():
        found = [table.row(name, task) for name in models]
        cells = [_cell(None if row is None else row.score, decimal) for row in found]
        rows.append(
            (f"{task}\n{metric} {'↑' if METRICS[metric].higher_is_better else '↓'}", *cells)
        )
    return Grid("Scores on unseen examples", ("", *models), tuple(rows))


def _faults(written: Mapping[str, Scores]) -> Grid:
    rows = []
    tasks = next(iter(written.values())).tasks
    for metric in _FAULTS:
        for task in (task for task, measured in tasks.items() if metric in measured):
            against = None if metric.endswith("flip_rate") else BASE  # of whose texts flips are
            table = score_table(written, {task: metric}, against=against)
            cells = []
            for row in table.rows:
                verdict = difference_text(row.difference, higher_is_better=False).split("\n")[2:]
                cells.append("\n".join([_cell(row.score, percent), *verdict]))
            rows.append((f"{metric.replace('_4grams', ' 4-grams').replace('_', ' ')} ↓", *cells))
    return Grid("Greedy texts", ("", *written), tuple(rows))


def _of_texts(scores: Scores) -> Scores:
    """The tasks that have a fault among their metrics."""
    tasks = scores.tasks.items()
    return Scores({task: measured for task, measured in tasks if {*_FAULTS} & {*measured}})


def _cell(found: Estimate | None, form: Callable[[float], str]) -> str:
    if found is None or found.is_point:
        return "" if found is None else form(found.value)
    return f"{form(found.value)}\n{interval(found, form)}"
