"""Score and time models of a run's family in this process, on the run's own examples."""

import functools
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from gptailor.app.assemble import evaluator_on
from gptailor.app.greedy_tasks import recorded_texts, with_generation
from gptailor.app.header import refuse_changes
from gptailor.app.inputs import load_members, open_tasks
from gptailor.config import Config
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.core.trial import Job
from gptailor.engine import Engine, Evaluator
from gptailor.engine.device import device_of
from gptailor.evaluation.timing import in_turns
from gptailor.family.fitted import FOLDER
from gptailor.record.run_record import RunRecord

__all__ = ["open_evaluator", "time_in_turns"]

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
