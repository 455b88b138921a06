"""What a study has decided is there before it goes on, whatever happens next."""

import functools
from pathlib import Path

import pytest
from studies import HEADER, PLAN, FormulaPool, searcher

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import Evaluation, Job
from gptailor.errors import RecordError
from gptailor.forecast.dry_run import MemoryJournal
from gptailor.record.entries import ModelEntry
from gptailor.record.journal import Journal
from gptailor.record.ranking import write_results
from gptailor.record.run_record import read_run
from gptailor.study import Study
from gptailor.study.scorer import Scorer


class BrokenPool(FormulaPool):
    """Fails on the test split, by a sentence or by a fault of the program."""

    def __init__(self, error: type[Exception] | None) -> None:
        super().__init__(fails=lambda job: "a disk is full" if job.split == "test" else None)
        self._error = error

    def evaluate(self, jobs: list[Job]) -> list[Evaluation]:
        if self._error is not None and any(job.split == "test" for job in jobs):
            raise self._error("unforeseen")
        return super().evaluate(jobs)


def run(folder: Path, pool: FormulaPool) -> tuple[int, Tailoring]:
    with Journal(folder) as journal:
        if journal.header() is None:
            journal.append(HEADER)
        study = Study(
            journal,
            pool,
            functools.partial(searcher, plan=PLAN),
            plan=PLAN,
            on_chosen=lambda s, chosen: write_results(folder, chosen, s.front(), s.objective),
        )
        return study.run()


@pytest.mark.parametrize("error", [None, KeyError, OSError])
def test_a_choice_is_on_disk_before_the_test_split_is_scored(
    error: type[Exception] | None, tmp_path: Path
) -> None:
    with pytest.raises(error or RecordError):
        run(tmp_path, BrokenPool(error))
    number = read_run(tmp_path).chosen
    best, front = Tailoring.load(tmp_path / "best.yaml"), (tmp_path / "front.yaml").read_bytes()
    pool = FormulaPool()
    again, chosen = run(tmp_path, pool)
    assert {job.split for job in pool.jobs} == {"test"}  # nothing that was known is run again
    assert number is not None
    assert (again, chosen) == (number.number, best)
    assert (tmp_path / "front.yaml").read_bytes() == front


def test_scores_of_a_trial_are_those_of_the_model_asked_for() -> None:
    journal = MemoryJournal()
    whole = Tailoring.whole(BASE, PLAN.n_layers)
    first, second = (Tailoring(whole.layers[:n]) for n in (4, 5))  # as if one were the refit
    found = [
        Scorer(journal, FormulaPool(), PLAN).scores("test", {3: Job(model, 7, "test")})[3]
        for model in (first, second, first)
    ]
    assert found[0] == found[2] != found[1]
    assert len(list(journal.of(ModelEntry, "test"))) == 2
