"""Whose greedy text is dead is passed over while a finalist with a living one exists."""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from studies import PLAN, FormulaPool, run_study, score

from gptailor.core.objective import Objective, retention
from gptailor.core.specs import GENERATION
from gptailor.core.statistics import RESULT
from gptailor.core.tailoring import BASE, Tailoring
from gptailor.core.trial import GUARD, Evaluation, Job, Measurement, Scores
from gptailor.forecast.dry_run import MemoryJournal
from gptailor.record.entries import ChosenEntry, WrittenEntry
from gptailor.record.run_record import RunRecord, read_run
from gptailor.study.guard import Guard, dead_text
from gptailor.tasks.greedy_text import FAULTS, GREEDY_TEXT

GUARDED = {"guard": True, "sizes": {**PLAN.sizes, GUARD: 8}}


def text_scores(
    flips: float = 0.1, n: int = 8, flags: Sequence[float] = (), **shares: float
) -> Scores:
    """Greedy text of n prompts with these shares of faults, or flags of loops; the others 0."""
    faults = {metric: (shares.get(metric, 0.0),) * n for metric in FAULTS}
    faults["loops"] = tuple(map(float, flags)) or faults["loops"]
    return Scores(
        {
            GREEDY_TEXT: {metric: Measurement(metric, v) for metric, v in faults.items()},
            GENERATION: {"flip_rate": Measurement("flip_rate", (flips,) * n)},
        }
    )


def pool(dead: Callable[[Tailoring], bool], **options: Any) -> FormulaPool:
    """A pool in which some candidates only repeat themselves."""

    def scores(job: Job) -> Scores:
        if job.split != GUARD:
            return score(job)
        return text_scores(repeated_4grams=0.9 if dead(job.tailoring) else 0.2)

    return FormulaPool(scores=scores, **options)


def ranked_finalists(record: RunRecord) -> list[int]:
    """Every finalist by its loss on all selection examples, computed anew."""
    n = PLAN.sizes["selection"]
    base = score(Job(Tailoring.whole(BASE, PLAN.n_layers), n, "selection"))
    goal = Objective(PLAN.goals, base)
    finalists = [m for m in record._models("finalist") if isinstance(m, int)]
    losses = {}
    for number in finalists:
        found = score(Job(record.proposals[number].tailoring, n, "selection"))
        losses[number] = (goal.scalar(found), goal.scalar(found, proxy=True), number)
    return sorted(losses, key=losses.__getitem__)


def choice(record: RunRecord) -> ChosenEntry:
    assert record.chosen is not None
    return record.chosen


def test_the_best_finalist_that_speaks_is_chosen_and_the_cost_is_said(tmp_path: Path) -> None:
    run_study(tmp_path / "free", FormulaPool())
    order = ranked_finalists(read_run(tmp_path / "free"))
    base = read_run(tmp_path / "free").test_scores[BASE]
    assert choice(read_run(tmp_path / "free")).number == order[0]
    proposals = read_run(tmp_path / "free").proposals
    for n_dead in range(len(order)):
        folder = tmp_path / str(n_dead)
        dead = {proposals[number].tailoring for number in order[:n_dead]}
        run_study(folder, pool(dead.__contains__), **GUARDED)
        record = read_run(folder)
        chosen = choice(record)
        assert chosen.number == order[n_dead]
        assert (chosen.guard is None) == (chosen.guard_cost is None) == (n_dead == 0)
        for number in order[:n_dead]:
            assert f"trial {number}: repeated 4-grams 90%, the base 20%" in (chosen.guard or "")
        # the base, the best member, the dead and the chosen: no others were written
        written = [entry for entry in record.entries if isinstance(entry, WrittenEntry)]
        assert {e.number for e in written if e.member is None} == set(order[: n_dead + 1])
        shares = {
            name: sum(
                retention(found.value(g.task, g.metric), base.value(g.task, g.metric), g.metric)
                for g in PLAN.goals
            )
            for name, found in record.test_scores.items()
            if name != RESULT
        }
        best = max(shares, key=shares.__getitem__)
        assert {e.member for e in written if e.member} == {BASE, best}


def test_where_all_are_dead_the_lowest_loss_is_chosen_with_a_sentence(tmp_path: Path) -> None:
    study, number = run_study(
        tmp_path, pool(lambda tailoring: len(tailoring.layers) < PLAN.n_layers), **GUARDED
    )
    del study
    chosen = choice(read_run(tmp_path))
    assert number == chosen.number == ranked_finalists(read_run(tmp_path))[0]
    assert chosen.guard is not None
    assert chosen.guard.startswith("the greedy text of every finalist is dead (trial ")
    assert chosen.guard_cost is None


def test_a_guarded_study_goes_on_after_a_stop_without_writing_again(tmp_path: Path) -> None:
    run_study(tmp_path, pool(lambda _: False), **GUARDED)
    before = (tmp_path / "record.jsonl").read_bytes()
    again = pool(lambda _: False)
    run_study(tmp_path, again, **GUARDED)
    assert not again.jobs
    assert (tmp_path / "record.jsonl").read_bytes() == before


def test_a_finalist_and_its_refit_are_one_trial_in_the_sentence() -> None:
    def evaluate(jobs: Sequence[Job]) -> Iterator[Evaluation]:
        for job in jobs:
            repeated = 0.2 if len(job.tailoring.layers) == PLAN.n_layers else 0.9
            yield Evaluation(scores=text_scores(repeated_4grams=repeated))

    guard = Guard(MemoryJournal(), evaluate, PLAN.n_layers, 8)
    whole = Tailoring.whole(BASE, PLAN.n_layers)
    for number, cut in ((3, 1), (3, 2), (5, 3)):  # as if trial 3 were there with two repairs
        kept = (*whole.layers[:cut], *whole.layers[cut + 1 :])
        assert guard.is_dead(number, Tailoring(kept))
    sentence = guard.verdict(7, whole, 0.5)["guard"]
    assert sentence.count("trial 3: ") == sentence.count("trial 5: ") == 1
    sentence = guard.verdict(5, whole, 0.5)["guard"]  # trial 5 is chosen, repaired otherwise
    assert sentence.count("trial 3: ") == sentence.count("trial 5 with another repair: ") == 1


@pytest.mark.parametrize(("living", "better"), [(0.55, False), (0.05, True)])
def test_loss_is_given_up_only_for_a_text_that_is_shown_to_be_better(
    living: float, better: bool
) -> None:
    whole = Tailoring.whole(BASE, PLAN.n_layers)
    dead, alive = (Tailoring(whole.layers[:n]) for n in (4, 5))
    texts = {  # the dead one loops in ten of sixteen, the base in one
        whole: text_scores(n=16, flags=[1] + [0] * 15),
        dead: text_scores(n=16, flags=[1] * 10 + [0] * 6),
        alive: text_scores(n=16, flags=[0] * (16 - round(16 * living)) + [1] * round(16 * living)),
    }

    def evaluate(jobs: Sequence[Job]) -> Iterator[Evaluation]:
        return (Evaluation(scores=texts[job.tailoring]) for job in jobs)

    guard = Guard(MemoryJournal(), evaluate, PLAN.n_layers, 16)
    assert guard.is_dead(3, dead)
    assert not guard.is_dead(4, alive)
    assert guard.writes_better(alive, dead) == better
    told = "its greedy text is dead (loops 62%, the base 6%), and no other is shown to be better"
    assert (guard.verdict(3, dead, 0.0)["guard"] == told) != better


@pytest.mark.parametrize(
    ("ours", "why"),
    [
        (text_scores(repeated_4grams=0.45, loops=0.45), None),
        (text_scores(repeated_4grams=0.55), "repeated 4-grams 55%, the base 10%"),
        (text_scores(repeated_4grams=0.1, loops=0.55), "loops 55%, the base 0%"),
        (text_scores(empty=0.5), "empty texts 50%, the base 0%"),
        (text_scores(flips=0.8), "80% of a whole member's own tokens are not its likeliest"),
        (text_scores(unterminated=1.0), None),
    ],
)
def test_dead_is_far_above_the_base(ours: Scores, why: str | None) -> None:
    assert dead_text(ours, text_scores(repeated_4grams=0.1)) == why


def test_a_base_that_cannot_write_is_said_and_is_tried_again(tmp_path: Path) -> None:
    whole = Tailoring.whole(BASE, PLAN.n_layers)

    def cannot(job: Job) -> str | None:
        writes = job.split == GUARD and job.tailoring == whole
        return "the worker was killed" if writes else None

    run_study(tmp_path, pool(lambda _: False, fails=cannot), **GUARDED)
    assert choice(read_run(tmp_path)).guard == (
        "no text was judged, because the base can't write: the worker was killed"
    )
    again = pool(lambda _: False)
    run_study(tmp_path, again, **GUARDED)
    assert again.jobs[0].tailoring == whole
    assert choice(read_run(tmp_path)).guard is None
