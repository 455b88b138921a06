"""Score a run's result with one layer changed, in every way, on the test split.

Scores go into the run's record, so that a change that was scored is not scored again.
"""

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from gptailor.app.header import refuse_changes
from gptailor.app.inputs import open_calibration, open_tasks
from gptailor.app.measure_models import open_result
from gptailor.app.repairs import Repairs
from gptailor.core.changes import Change, changes_of
from gptailor.core.repair import Repairer
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Evaluator
from gptailor.errors import TailoringError
from gptailor.family import Family
from gptailor.record.entries import ExplainedEntry
from gptailor.record.journal import Journal
from gptailor.record.ladder_folder import earlier_runs
from gptailor.record.run_record import RunRecord, read_run
from gptailor.report.words import amount, count, duration
from gptailor.study.coefficients import fitted_before

__all__ = ["explain"]

_TOGETHER = 16  # models that are scored before the record is written


def explain(
    run: Path,
    *,
    config: Path | None = None,
    on_message: Callable[[str], None] = lambda _: None,
) -> RunRecord:
    """Score what is not scored yet, and return the record with it.

    Args:
        run: The folder of a run that has ended.
        config: The tailor.yaml, where it names a metric of your own.
        on_message: Called with a sentence before what takes long; one says what it will take.

    Raises:
        UserError: The run has no result, or its members or tasks are not those it was begun with.
    """
    record, result, settings, evaluator = open_result(run, config, "explain", on_message)
    family = evaluator.engine.family
    repair: Repairer | None = None
    if any(spec.repaired for spec in result.layers):
        tasks = open_tasks(settings, family)
        rows = functools.partial(open_calibration, settings, family, tasks)
        repairs = Repairs(settings.repair, evaluator.engine, rows)
        refuse_changes(record, family, calibration=repairs.calibration)
        repair = repairs.repairer  # with refits, this is what fits a layer when it is first needed
    scale = repair if any(spec.gain != 1.0 for spec in result.layers) else None
    changes = []
    own = frozenset(_own(family, result))
    first = next(iter(map(read_run, earlier_runs(run))), record)  # of a ladder it alone fits
    fit = fitted_before(first.slopes, family.members[1:], n_layers=family.n_layers)
    fitted = None if fit is None else fit.tailoring
    for change in changes_of(result, family.members, family.n_layers, own, fitted):
        if scale is not None:
            change = replace(change, tailoring=scale(change.tailoring))
        try:
            family.check(change.tailoring)
        except TailoringError as error:
            on_message(f"note: layer {change.position} {change.kind} is left out: {error}")
        else:
            changes.append(change)
    known = {entry.tailoring for entry in record.explained}
    todo = [change for change in changes if change.tailoring not in known]
    if todo:
        on_message(
            _forecast(record, evaluator, [change.tailoring for change in todo], len(changes))
        )
        _score(record, evaluator, todo, on_message)
    return read_run(run)


def _own(family: Family, result: Tailoring) -> Iterator[str]:
    """Digests of fitted tensors that are more than a refit."""
    for spec in result.layers:
        if spec.fitted is not None:
            refit = spec.refit_to is not None and len(family.fitted.get(spec.fitted)) == 1
            if not refit:
                yield spec.fitted


def _score(
    record: RunRecord,
    evaluator: Evaluator,
    changes: Sequence[Change],
    on_message: Callable[[str], None],
) -> None:
    """Score changes in groups that share their first layers, and write each group down."""
    assert record.result is not None, "there is something to explain"
    result, n_examples = record.result.digest, record.header.n_examples("test")
    with Journal(record.folder) as journal:
        for start in range(0, len(changes), _TOGETHER):
            group = changes[start : start + _TOGETHER]
            done = evaluator.evaluate([Job(c.tailoring, n_examples, "test") for c in group])
            for change, evaluation in zip(group, done, strict=True):
                journal.append(ExplainedEntry.of(result, change, evaluation))
            on_message(f"scored {start + len(group)} of {len(changes)}")


def _forecast(
    record: RunRecord, evaluator: Evaluator, models: Sequence[Tailoring], n_all: int
) -> str:
    """What scoring will take, by the speed of the run's own search."""
    jobs = [Job(model, record.header.n_examples("test"), "test") for model in models]
    groups = [jobs[start : start + _TOGETHER] for start in range(0, len(jobs), _TOGETHER)]
    tokens = sum(evaluator.count(group).layer_tokens for group in groups)
    specs = {spec for model in models for spec in model.layers}
    n_fits = sum(spec.refit_to is not None and spec.fitted is None for spec in specs)
    fits = f" and {count(n_fits, 'fit')}" if n_fits else ""
    known = f" ({n_all - len(models)} are scored already)" if n_all > len(models) else ""
    text = f"{count(len(models), 'change')} to score{known}: {amount(tokens)} layer-tokens{fits}"
    spent = record.spent
    if spent is None or not spent.layer_tokens:
        return text
    seconds = tokens * spent.seconds / spent.layer_tokens
    return f"{text}, about {duration(seconds)} at the speed of the search"
