"""Finalists that are surely behind are stopped early, near ones are not, and a resume agrees."""

from pathlib import Path

import numpy as np
import pytest
from studies import FormulaPool, run_study

from gptailor.core.objective import Goal, Objective
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.core.trial import Job, Measurement, Scores
from gptailor.record.entries import ModelEntry
from gptailor.record.journal import read_record
from gptailor.study.racing import best_first, of_unlike_cuts, stages, still_racing

SIZES = {"search": 9, "selection": 128, "test": 7}


def texts(level: float, n_examples: int, seed: int = 0) -> Scores:
    """Bits of texts around a level; the first examples are the same, however many there are."""
    bits = level + 0.1 * np.random.default_rng(seed).standard_normal(200)[:n_examples]
    return Scores({"texts": {"bits_per_byte": Measurement("bits_per_byte", tuple(bits.tolist()))}})


@pytest.mark.parametrize(
    ("n", "found"), [(5, (5,)), (59, (30, 59)), (60, (30, 60)), (250, (32, 63, 125, 250))]
)
def test_stages_double_and_none_is_too_small_to_tell(n: int, found: tuple[int, ...]) -> None:
    assert stages(n) == found


def test_only_those_surely_behind_the_best_are_stopped() -> None:
    objective = Objective([Goal("texts", "bits_per_byte")], texts(1.0, 40))
    scores = {0: texts(1.5, 40, 1), 1: texts(1.0, 40, 2), 2: texts(1.01, 40, 3)}
    assert set(still_racing(scores, objective, 1)) == {1, 2}
    assert set(still_racing(scores, objective, 3)) == {0, 1, 2}
    assert still_racing({0: scores[0]}, objective, 1) == [0]


def quiz(right: float, bits: float, seed: int) -> Scores:
    """Answers of 200 questions, right with a probability, and bits around a level."""
    rng = np.random.default_rng(seed)
    answers = (rng.random(200) < right).astype(float).tolist()
    gold = (bits + 0.1 * rng.standard_normal(200)).tolist()
    measured = {"acc": Measurement("acc", tuple(answers))}
    measured["gold_bits_per_byte"] = Measurement("gold_bits_per_byte", tuple(gold))
    return Scores({"quiz": measured})


def test_where_the_metric_shows_no_sure_difference_the_proxy_decides() -> None:
    """Many draws: the better model is found more often than by the metric alone."""
    objective = Objective([Goal("quiz", "acc")], quiz(0.5, 1.2, 0))
    rng = np.random.default_rng(1)
    by_metric = by_both = 0
    for seed in rng.integers(2**31, size=200):
        scores = {"better": quiz(0.46, 1.15, seed), "worse": quiz(0.44, 1.25, seed + 1)}
        by_metric += min(scores, key=lambda name: objective.scalar(scores[name])) == "better"
        by_both += best_first(scores, objective)[0] == "better"
    assert by_metric < 160
    assert by_both > 185


def test_a_sure_difference_of_the_metric_goes_before_the_proxy() -> None:
    objective = Objective([Goal("quiz", "acc")], quiz(0.5, 1.2, 0))
    scores = {
        1: quiz(0.2, 0.8, 1),
        2: quiz(0.8, 1.5, 2),
        3: quiz(0.8, 1.4, 3),
        4: quiz(0.1, 0.9, 4),
    }
    assert best_first(scores, objective) == [3, 2, 1, 4]
    assert best_first({5: scores[2], 6: scores[2]}, objective) == [5, 6]


def test_of_finalists_with_equal_cuts_the_first_is_refitted() -> None:
    merged = LayerSpec.of("base:1", "math:1", merge="linear")
    base, math, other = (
        Tailoring(layers)
        for layers in (
            (LayerSpec.of("base:0"), LayerSpec.of("base:1")),
            (LayerSpec.of("math:0"), merged),
            (LayerSpec.of("base:0"), LayerSpec.of("base:2")),
        )
    )
    finalists = {7: base, 8: math, 9: other}
    assert of_unlike_cuts([8, 7, 9], finalists, 2) == [8, 9]
    assert of_unlike_cuts([9, 7, 8], finalists, 1) == [9]
    assert of_unlike_cuts([7, 8], finalists, 2) == [7]


def test_a_study_stops_bad_finalists_and_chooses_as_if_all_had_been_scored(tmp_path: Path) -> None:
    def score(job: Job) -> Scores:
        seed = int(job.tailoring.digest, 16)
        return texts(1.0 + seed % 7 / 10, job.n_examples, seed % 1000)

    goals = (Goal("texts", "bits_per_byte"),)
    changes = {"goals": goals, "sizes": SIZES, "finalists": 6}
    pool = FormulaPool(scores=score)
    study, chosen = run_study(tmp_path, pool, **changes)
    entries = [e for _, e in read_record(tmp_path / "record.jsonl") if isinstance(e, ModelEntry)]
    raced = {e.number for e in entries if e.kind == "finalist" and e.number is not None}
    assert len(raced) == 6
    whole = {n: score(Job(study.trials[n].tailoring, 128, "selection")) for n in raced}
    assert chosen == min(raced, key=lambda n: whole[n].value("texts", "bits_per_byte"))
    finals = [e for e in entries if e.kind == "finalist" and e.scores is not None]
    to_the_end = {e.number for e in finals if e.scores and e.scores.n_examples == 128}
    assert chosen in to_the_end
    assert len(to_the_end) < 7  # with the base
    scored = sum(job.n_examples - job.n_known for job in pool.jobs if job.split == "selection")
    assert scored < 7 * 128
    again = FormulaPool(scores=score)
    assert run_study(tmp_path, again, **changes)[1] == chosen
    assert again.jobs == []
