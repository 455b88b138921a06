"""A long study keeps of a trial what the record says of it, and no more as it grows."""

import gc
import tracemalloc
from pathlib import Path

import pytest
from studies import FormulaPool, run_study

from gptailor.record.journal import read_record
from gptailor.study import Progress

N_TRIALS = 150
# a number of a trial is 8 to 15 bytes in the record and 24 to 32 in memory, where the record's
# entry, the trial and the searcher's memory share it
MOST_PER_BYTE = 12


@pytest.mark.slow
def test_memory_grows_with_the_record_and_not_faster(tmp_path: Path) -> None:
    record = tmp_path / "record.jsonl"
    pool = FormulaPool()
    seen: dict[int, tuple[int, int]] = {}

    def look(progress: Progress) -> None:
        if progress.last is not None and progress.n_trials in (50, 100, 150):
            pool.jobs.clear()  # the pool's own memory would grow
            gc.collect()
            seen[progress.n_trials] = (tracemalloc.get_traced_memory()[0], record.stat().st_size)

    tracemalloc.start()
    try:
        study, _ = run_study(tmp_path, pool, look, max_trials=N_TRIALS)
    finally:
        tracemalloc.stop()
    assert len(study.trials) == N_TRIALS
    (held_1, size_1), (held_2, size_2), (held_3, size_3) = (seen[n] for n in sorted(seen))
    assert held_2 - held_1 <= MOST_PER_BYTE * (size_2 - size_1)
    assert held_3 - held_2 <= MOST_PER_BYTE * (size_3 - size_2)
    assert sum(entry.kind == "trial" for _, entry in read_record(record)) == N_TRIALS
