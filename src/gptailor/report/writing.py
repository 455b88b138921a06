"""What base, best member, last layers cut and result write: texts, faults and scores."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from gptailor.core.metrics import METRICS
from gptailor.core.score_table import best_member, score_table
from gptailor.core.specs import GENERATION
from gptailor.core.statistics import RESULT, Estimate
from gptailor.core.tailoring import BASE
from gptailor.core.trial import Scores
from gptailor.record.evaluation_file import SamplesFile
from gptailor.record.run_record import RunRecord
from gptailor.report.grid import Grid, difference_text, share_cells
from gptailor.report.words import decimal, interval, percent
from gptailor.tasks.greedy_text import FAULTS, GREEDY_TEXT, PROBE

__all__ = ["Writing", "writing"]

_FAULTS = tuple((GREEDY_TEXT, metric) for metric in FAULTS)
_FLIPS = ((GENERATION, "flip_rate"), (GENERATION, "critical_flip_rate"))
_GUARDS = (  # measured for the guard alone
    (GENERATION, "divergence"),
    (GENERATION, "critical_divergence"),
    (PROBE, "exact_match"),
)
_NAMES = {
    "repeated_4grams": "repeated 4-grams",
    "flip_rate": "flip rate",
    "critical_flip_rate": "flip rate, critical tokens",
    "divergence": "divergence\nnats a token",
    "critical_divergence": "divergence, critical tokens\nnats a token",
    "exact_match": f"{PROBE}\nright",
}
_LAST_N = (
    "last_n: the base without the layers before its last one, as many as the result lacks, and "
    "nothing repaired"
)
_ABOVE_CHANCE = (
    "above chance: the share of what the whole member scores above a guess by the number of "
    "choices; at chance: the member's own score is not surely above it"
)
_INTERVALS = (
    "below a value is its 95 % interval over the texts; better and worse: than the base, in pairs, "
    "beyond chance"
)


@dataclass(frozen=True, slots=True)
class Writing:
    """Models beside each other, a column each."""

    about: str  # a sentence on the prompts
    guard: str  # a sentence without its full stop on what was passed over, or ""
    faults: Grid  # of greedy texts: a row a detector
    scores: Grid | None  # on the test split; None where only a guard measured
    # each prompt that is shown, and the models' texts after it by name
    texts: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]
    notes: tuple[str, ...]


def writing(run: RunRecord) -> Writing | None:
    """What ``gptailor sample`` and a guard measured; None where there was neither.

    A detector that both measured is shown on the prompts of ``sample``, which are more.
    """
    sampled = {} if run.samples is None else {m.name: m.scores for m in run.samples.models}
    guarded = _guarded(run)
    if not (first := sampled or guarded):
        return None
    names, tested = tuple(first), sampled | _on_test(run, sampled)
    rows = _rows(first, (*_FAULTS, *_FLIPS), names) + _rows(guarded, _GUARDS, names)
    scores = _scores(run, tested) if sampled else None
    guard = "" if run.chosen is None else run.chosen.guard or ""
    return Writing(
        _about(first, run.samples),
        guard,
        Grid("Greedy texts", ("", *names), tuple(rows)),
        scores,
        () if run.samples is None else _texts(run.samples),
        tuple(_notes(run, first, guarded)),
    )


def _on_test(run: RunRecord, models: Iterable[str]) -> dict[str, Scores]:
    """Scores on the test split of those that the run scored there.

    What was sampled may have a goal's name, ``generation``, but is of other prompts.
    """
    tested = run.test_scores
    return {name: tested[name] for name in models if name in tested}


def _guarded(run: RunRecord) -> dict[str, Scores]:
    """What the guard let base, best member and result write, in this order."""
    best = best_member(
        {name: each for name, each in run.test_scores.items() if name != RESULT},
        {goal.task: goal.metric for goal in run.goals},
    )
    names = dict.fromkeys((BASE, best or BASE, RESULT))
    return {name: run.written[name] for name in names if name in run.written}


def _about(models: Mapping[str, Scores], samples: SamplesFile | None) -> str:
    n_prompts = len(models[BASE].tasks[GREEDY_TEXT][FAULTS[0]].values)
    if samples is None:
        return f"Greedy text, up to 64 tokens, after the guard's {n_prompts} openers"
    return (
        f"Greedy text, up to 64 tokens, of {n_prompts} prompts that no search saw; the first "
        f"{len(samples.prompts)} are shown in full"
    )


def _notes(
    run: RunRecord, models: Mapping[str, Scores], guarded: Mapping[str, Scores]
) -> list[str]:
    """What is to be known of the rows; `models` are those of the flip rates."""
    member = BASE if run.own_texts is None else run.own_texts.member
    reader = BASE if run.samples is not None else member  # whose texts the flips are of
    notes = [] if run.samples is None else [_LAST_N]
    notes.append(
        f"flip rate: how often a model would write another token than {reader}, in {reader}'s own "
        "texts"
    )
    own = models[reader].tasks.get(GENERATION, {}).get("flip_rate") if reader in models else None
    if own is not None and any(own.values):
        notes.append(
            f"in 16-bit weights rounding, which changes with the batch, decides between tokens of "
            f"nearly equal probability, so {reader}'s own flip rate may be above 0"
        )
    if run.samples is not None and guarded:
        n_openers = len(guarded[BASE].tasks[GREEDY_TEXT][FAULTS[0]].values)
        notes.append(
            f"divergence (from {member}, in its own texts) and {PROBE} are of the guard's "
            f"{n_openers} openers and its short lines"
        )
    if run.samples is not None and any(run.header.chances("test").values()):
        notes.append(_ABOVE_CHANCE)
    return [*notes, _INTERVALS]


def _texts(samples: SamplesFile) -> tuple[tuple[str, tuple[tuple[str, str], ...]], ...]:
    return tuple(
        (prompt, tuple((model.name, model.texts[index]) for model in samples.models))
        for index, prompt in enumerate(samples.prompts)
    )


def _scores(run: RunRecord, models: Mapping[str, Scores]) -> Grid:
    goals = {goal.task: goal.metric for goal in run.goals}
    chances, members = run.header.chances("test"), run.header.family.members
    table = score_table(models, goals, chances=chances, members=members)
    means, rows = [table.means[name] for name in models], list[tuple[str, ...]]()
    shares = [mean.of_base for mean in means], [mean.of_best for mean in means]
    for member, each in zip(table.references, shares, strict=False):
        kept, above = zip(*map(share_cells, each), strict=True)
        rows.append((f"score kept, mean\nof {member}", *kept))
        if any(above):
            rows.append((f"above chance\nof {member}", *above))
    chance = {row.task: f"\nchance {decimal(row.chance)}" for row in table.rows if row.chance}
    for task, metric in goals.items():
        found = [table.row(name, task) for name in models]
        cells = [_cell(None if row is None else row.score, decimal) for row in found]
        rows.append((f"{task}\n{metric} {_arrow(metric)}{chance.get(task, '')}", *cells))
    return Grid("Scores on unseen examples", ("", *models), tuple(rows))


def _rows(
    models: Mapping[str, Scores], detectors: tuple[tuple[str, str], ...], names: tuple[str, ...]
) -> list[tuple[str, ...]]:
    """A row for each detector that was measured, with a cell for each name."""
    rows = []
    for task, metric in detectors:
        # the base has no flips in its own texts: nothing is compared with it
        against = None if task == GENERATION else BASE
        table = score_table(models, {task: metric}, against=against)
        if not table.rows:
            continue
        form, cells = decimal if "divergence" in metric else percent, []
        for row in map(table.row, names, [task] * len(names)):
            better = METRICS[metric].higher_is_better if metric in METRICS else False
            difference = None if row is None else row.difference
            verdict = difference_text(difference, higher_is_better=better).split("\n")[2:]
            cells.append("\n".join([_cell(None if row is None else row.score, form), *verdict]))
        first, _, unit = _NAMES.get(metric, metric).partition("\n")
        rows.append((f"{first} {_arrow(metric)}" + (f"\n{unit}" if unit else ""), *cells))
    return rows


def _arrow(metric: str) -> str:
    return "↑" if metric in METRICS and METRICS[metric].higher_is_better else "↓"


def _cell(found: Estimate | None, form: Callable[[float], str]) -> str:
    if found is None or found.is_point:
        return "" if found is None else form(found.value)
    return f"{form(found.value)}\n{interval(found, form)}"
