"""A pool that scores tailorings by a formula: a study without models."""

import dataclasses
import functools
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gptailor.core.objective import Goal, Objective
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Evaluation, Job, Measurement, Scores
from gptailor.record.journal import Journal
from gptailor.searchers.evolution import Evolution
from gptailor.searchers.searcher import Searcher
from gptailor.searchers.space import Space
from gptailor.study import Plan, Progress, Study

SPACE = Space(6, 2, ("math", "code"), ("task_arithmetic",))
PLAN = Plan(
    goals=(Goal("which", "acc"), Goal("texts", "bits_per_byte")),
    members=("base", "math", "code"),
    n_layers=6,
    n_removed=2,
    rungs=(3, 9),
    sizes={"search": 9, "selection": 5, "test": 7},
    max_trials=30,
    finalists=3,
)


def score(tailoring: Tailoring, part: str, n_examples: int) -> Scores:
    """Numbers that depend on the tailoring, the part and the example, and on nothing else."""
    key = zlib.crc32(f"{tailoring.digest} {part}".encode())
    noise = np.random.default_rng(key).random((2, n_examples)).round(6)
    value = len(tailoring.layers) / 10
    acc = tuple(float(x) for x in noise[0] < value)
    bits = tuple(float(x) for x in (2 - value + noise[1]).round(6))
    weights = tuple(float(10 + i) for i in range(n_examples))
    return Scores(
        {
            "which": {
                "acc": Measurement("acc", acc),
                "gold_bits_per_byte": Measurement("gold_bits_per_byte", bits, weights),
            },
            "texts": {"bits_per_byte": Measurement("bits_per_byte", bits, weights)},
        }
    )


class Formula:
    """A pool without workers; `fails` says which jobs fail, and why."""

    def __init__(self, fails: Callable[[Job], str | None] = lambda _: None) -> None:
        self._fails = fails
        self.jobs: list[Job] = []

    def evaluate(self, jobs: Sequence[Job]) -> list[Evaluation]:
        self.jobs += jobs
        done = []
        for job in jobs:
            failure = self._fails(job)
            scores = None if failure else score(job.tailoring, job.split, job.n_examples)
            done.append(Evaluation(scores, failure, 0.25, 100))
        return done

    def close(self) -> None:
        pass


def searcher(objective: Objective, max_trials: int) -> Searcher:
    return Evolution(
        space=SPACE, objective=objective, rungs=PLAN.rungs, max_trials=max_trials, seed=3
    )


@pytest.fixture
def run_study() -> Callable[..., tuple[Study, int]]:
    """Factory: runs or goes on with a study in a folder; gives it and the number chosen."""

    def run(
        folder: Path,
        pool: Formula,
        on_progress: Callable[[Progress], None] = lambda _: None,
        **changes: Any,
    ) -> tuple[Study, int]:
        plan = dataclasses.replace(PLAN, **changes)
        with Journal(folder) as journal:
            if journal.header() is None:
                journal.append("header", format="gptailor-record/1")
            make = functools.partial(searcher, max_trials=plan.max_trials)
            study = Study(journal, pool, make, plan=plan, on_progress=on_progress)
            return study, study.run().number

    return run


@pytest.fixture
def formula() -> type[Formula]:
    return Formula
