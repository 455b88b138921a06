"""Score and time models of a run's family in this process, on the run's own examples."""

import functools
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from gptailor.app.assemble import evaluator_on
from gptailor.app.greedy_tasks import recorded_texts, with_generation
from gptailor.app.header import refuse_changes
from gptailor.app.inputs import load_members, open_tasks
from gptailor.app.settings import config_of_run, with_recorded_settings
from gptailor.config import Config
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator
from gptailor.engine.device import device_of
from gptailor.errors import RecordError
from gptailor.evaluation.timing import in_turns
from gptailor.family.fitted import FOLDER
from gptailor.record.run_record import RunRecord, read_run

__all__ = ["open_evaluator", "open_result", "time_in_turns"]

_TOKENS = 1024  # least that a round runs through each layer, where the task has them


def open_evaluator(config: Config, record: RunRecord, folders: Iterable[Path]) -> Evaluator:
    """Load the members and the tasks of a run; fitted tensors are looked for in `folders`.

    Raises:
        ConfigError: The members or the tasks are not those that the run was begun with.
    """
    limits, device = config.engine, device_of(config.engine.device)
    family = load_members(config)
    for folder in folders:
        family.fitted.look_in(folder / FOLDER)
    tasks = with_generation(config, open_tasks(config, family), recorded_texts(record))
    refuse_changes(record, family, tasks)
    engine = Engine(
        family, device=device, cache_bytes=limits.cache_bytes, member_bytes=limits.member_bytes
    )
    return evaluator_on(engine, tasks)


def open_result(
    run: Path, config: Path | None, verb: str, on_message: Callable[[str], None]
) -> tuple[RunRecord, Tailoring, Config, Evaluator]:
    """Read a run that has ended, for the command `verb`, and load its members and tasks.

    Returns:
        The record, the result, the settings of the run, and its evaluator.

    Raises:
        UserError: The run has no result, or its members or tasks are not those it was begun with.
    """
    record = read_run(run)
    result = record.result
    if result is None or not {BASE, RESULT} <= record.test_scores.keys():
        raise RecordError(
            f"{run}: has no result that was scored on the test split yet; finish the search by the "
            "command that began it"
        )
    settings = with_recorded_settings(config_of_run(record, config, verb), record)
    on_message("loading the family and the tasks ...")
    evaluator = open_evaluator(settings, record, [run])
    evaluator.engine.family.check(result)
    return record, result, settings, evaluator


def time_in_turns(
    evaluator: Evaluator, models: Mapping[str, Tailoring], split: str, n_examples: int
) -> dict[str, tuple[float, ...]]:
    """Seconds in which the engine scores the same examples, for each model and round.

    They take turns. Each is timed with the base's layers at its positions: merged or repaired
    layers are as large, and making them is no part of a finished model's time.
    """
    n = 1
    while n < n_examples and evaluator.tokens(split, 0, n) < _TOKENS:
        n = min(2 * n, n_examples)
    jobs = {
        name: Job(
            Tailoring(tuple(LayerSpec((Source(BASE, s.position),)) for s in model.layers)), n, split
        )
        for name, model in models.items()
    }

    def seconds(job: Job) -> float:
        started = time.perf_counter()
        evaluator.evaluate([job])
        return time.perf_counter() - started

    return in_turns({name: functools.partial(seconds, job) for name, job in jobs.items()})
