"""Finalists are repaired once, scored with their repairs, and the best model of all is chosen."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import pytest
from studies import HEADER, PLAN, FormulaPool, score, searcher

from gptailor.core.repair import refit_cuts
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Job, Measurement, Scores
from gptailor.record.entries import ChosenEntry, ModelEntry, RefittedEntry
from gptailor.record.journal import Journal
from gptailor.record.run_record import read_run
from gptailor.study import Progress, Study
from gptailor.study.selection import N_REFITTED

SEARCHED, REFITTED = "0" * 16, "f" * 16  # digests of tensors fitted in the search, and exactly


def fitted(tailoring: Tailoring, digest: str) -> Tailoring:
    """Each cut refitted, the tensors named."""
    layers = [
        spec.with_repair(refit_to=spec.refit_to, fitted=digest) if spec.refit_to else spec
        for spec in refit_cuts(tailoring, PLAN.n_layers).layers
    ]
    return dataclasses.replace(tailoring, layers=tuple(layers))


def scores(job: Job, helps: float) -> Scores:
    """Those of the formula; refitted tailorings need `helps` fewer bits."""
    found = score(job)
    if not any(spec.fitted == REFITTED for spec in job.tailoring.layers):
        return found
    texts = found.tasks["texts"]["bits_per_byte"]
    bits = tuple(value - helps for value in texts.values)
    better = Measurement("bits_per_byte", bits, texts.weights)
    return Scores({**found.tasks, "texts": {"bits_per_byte": better}})


def run(
    folder: Path,
    helps: float,
    repaired: list[int],
    *,
    fails: bool = False,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> tuple[int, Tailoring]:
    """Run a study, or go on with it; `repaired` gets the numbers of finalists refitted now."""

    def failure(job: Job) -> str | None:
        refitted = any(spec.fitted == REFITTED for spec in job.tailoring.layers)
        return "non-finite" if fails and refitted else None

    def refit(number: int, tailoring: Tailoring, _: Tailoring | None) -> RefittedEntry:
        repaired.append(number)
        models = fitted(tailoring, SEARCHED), fitted(tailoring, REFITTED)
        return RefittedEntry(
            number=number, searched=models[0], refitted=models[1], calibration="c" * 16
        )

    with Journal(folder) as journal:
        if journal.header() is None:
            journal.append(HEADER)
        pool = FormulaPool(failure, functools.partial(scores, helps=helps))
        make = functools.partial(searcher, plan=PLAN)
        return Study(journal, pool, make, plan=PLAN, refit=refit, on_progress=on_progress).run()


@pytest.mark.parametrize(("helps", "digest"), [(0.9, REFITTED), (-0.9, SEARCHED)])
def test_the_better_of_both_repairs_is_chosen_and_tested(
    tmp_path: Path, helps: float, digest: str
) -> None:
    repaired: list[int] = []
    number, tailoring = run(tmp_path, helps, repaired)
    record = read_run(tmp_path)
    assert len(repaired) == len(set(repaired)) == N_REFITTED
    assert {spec.fitted for spec in tailoring.layers if spec.repaired} == {digest}
    assert tailoring == fitted(record.proposals[number].tailoring, digest)
    assert record.result == tailoring
    assert isinstance(record.chosen, ChosenEntry)
    assert record.chosen.tailoring == tailoring
    refits = [e for e in record.entries if isinstance(e, ModelEntry) and e.kind == "refitted"]
    assert {entry.model for entry in refits} == set(repaired)
    whole = scores(Job(tailoring, PLAN.sizes["test"], "test"), helps)
    assert record.on_test[number] == whole


def test_refits_that_can_not_be_scored_leave_the_repairs_of_the_search(tmp_path: Path) -> None:
    number, tailoring = run(tmp_path, 0.9, [], fails=True)
    assert tailoring == fitted(read_run(tmp_path).proposals[number].tailoring, SEARCHED)
    with Journal(tmp_path) as journal:
        failures = {entry.failure for entry in journal.of(ModelEntry, "refitted")}
    assert failures == {"non-finite"}


def test_a_study_killed_anywhere_around_its_repairs_repairs_none_twice(tmp_path: Path) -> None:
    whole: list[int] = []
    wanted = run(tmp_path / "whole", 0.9, whole)
    lines = (tmp_path / "whole" / "record.jsonl").read_bytes().splitlines(keepends=True)
    first = next(n for n, line in enumerate(lines) if b'"kind":"refits"' in line)
    for end in range(first, len(lines) + 1):
        folder = tmp_path / str(end)
        folder.mkdir()
        (folder / "record.jsonl").write_bytes(b"".join(lines[:end]))
        known = sum(b'"kind":"refits"' in line for line in lines[:end])
        again: list[int] = []
        assert run(folder, 0.9, again) == wanted
        assert again == whole[known:]


def test_a_study_without_repair_records_no_tailoring_with_its_choice(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append(HEADER)
        make = functools.partial(searcher, plan=PLAN)
        number, tailoring = Study(journal, FormulaPool(), make, plan=PLAN).run()
    record = read_run(tmp_path)
    assert record.chosen is not None
    assert record.chosen.tailoring is None
    assert record.result == tailoring == record.proposals[number].tailoring


def test_progress_says_when_each_finalist_is_refitted(tmp_path: Path) -> None:
    phases: list[str] = []
    run(tmp_path, 0.9, [], on_progress=lambda progress: phases.append(progress.phase))
    at = phases.index("selection")
    assert phases[at:] == ["selection", *["repair"] * N_REFITTED, "selection", "test", "done"]
