"""The cost of a search, before it begins: trials, tokens, memory, time.

The speed of each kind of work was measured on this machine, and the study is run without models
(`dry_run`). Worker processes are assumed to be as fast as this one with as many threads, and slowed
down by each other only where they have fewer cores than threads.
"""

from collections.abc import Iterable

import torch

from gptailor.core.trial import Trial
from gptailor.engine import Evaluator, Work
from gptailor.forecast.dry_run import CountingPool, MemoryJournal, dry_run
from gptailor.forecast.memory import held_bytes, peak_bytes
from gptailor.forecast.speed import Speed, measure_speed
from gptailor.record.entries import Entry, ForecastEntry
from gptailor.searchers.searcher import FittedWhole, MakeSearcher
from gptailor.searchers.space import Space
from gptailor.study import Plan
from gptailor.workers import WorkerSetup

__all__ = ["forecast", "speed_with"]

_NUMBER_BYTES = 100  # of a score in the record, in the trial and in the searcher's history
_ALLOCATOR_BYTES = 2**27  # freed memory that the allocator keeps


def forecast(
    plan: Plan,
    make_searcher: MakeSearcher,
    pool: CountingPool,
    known: Iterable[Entry] = (),
    fitted: FittedWhole | None = None,
) -> tuple[ForecastEntry, tuple[Trial, ...], MemoryJournal]:
    """Run the study without models.

    Args:
        plan: The study's.
        make_searcher: Makes its searcher.
        pool: A new one; counts what is evaluated.
        known: Scores that are not measured again.
        fitted: The model that an earlier search has fitted.

    Returns:
        The costs; the trials of the search and the record, with made-up scores.
    """
    evaluator = pool.evaluator
    engine = evaluator.engine
    device = str(engine.device)
    held, journal = held_bytes(device), MemoryJournal(known)
    trials = dry_run(plan, make_searcher, pool, journal, fitted)
    pool.refit(plan.n_layers, plan.n_kept)  # one finalist: those of a search that ended are alike
    search, total = pool.work.get("search", Work()), sum(pool.work.values(), Work())
    grown = pool.merged_bytes + total.n_bytes + pool.made_up.n_numbers * _NUMBER_BYTES
    grown = max(grown, pool.step_bytes)  # before the search, so not beside its layers
    grown += pool.fit_bytes + (engine.member_bytes or 0) + _ALLOCATOR_BYTES
    entry = ForecastEntry(
        n_trials=len(trials),
        n_candidates=len({trial.tailoring for trial in trials}),
        layer_tokens=total.layer_tokens,
        shared=1 - search.layer_tokens / max(search.unshared, 1),
        seconds=pool.seconds,
        family_bytes=engine.family.nbytes,
        merged_bytes=pool.merged_bytes,
        peak_bytes=max(peak_bytes(device), held + grown),
    )
    return entry, trials, journal


def speed_with(setup: WorkerSetup | None, plan: Plan, space: Space, evaluator: Evaluator) -> Speed:
    """Measure the speed of this machine; it takes a few seconds.

    `setup` describes the processes that will evaluate, None if it is this one; the speed is
    measured with as many threads as one of them has.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(threads if setup is None else setup.threads)
    speed = measure_speed(plan, space, evaluator)
    torch.set_num_threads(threads)
    return speed
