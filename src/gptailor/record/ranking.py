"""Rank trials, find the Pareto front, and write ``best.yaml`` and ``front.yaml``.

Both files can be made again from the record at any time.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from gptailor.core.objective import Objective, pareto_front
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Trial
from gptailor.files.atomic import write_atomically
from gptailor.files.yaml import dump_yaml

__all__ = ["BEST", "FRONT", "comparable", "front_of", "is_sized", "ranked", "write_results"]

BEST = "best.yaml"
FRONT = "front.yaml"


def is_sized(tailoring: Tailoring, n_kept: int) -> bool:
    """Whether a tailoring is as small as asked: in layers, or narrower in every one of them."""
    narrower = all(spec.fitted and spec.refit_to is None for spec in tailoring.layers)
    return len(tailoring.layers) == n_kept or narrower


def comparable(trials: Sequence[Trial], n_kept: int) -> list[Trial]:
    """Complete trials with `n_kept` layers, on the most examples that any of them has.

    Losses on few examples would crowd out better-known ones by luck.
    """
    sized = [t for t in trials if t.complete and is_sized(t.tailoring, n_kept)]
    most = max((t.proposal.n_examples for t in sized), default=0)
    return [t for t in sized if t.proposal.n_examples == most]


def front_of(trials: Sequence[Trial], objective: Objective, n_kept: int) -> list[Trial]:
    """The `comparable` trials that no other beats on every task."""
    compared = list({t.tailoring: t for t in comparable(trials, n_kept)}.values())
    losses = np.array([objective.losses(t.scores) for t in compared if t.scores is not None])
    return [compared[index] for index in pareto_front(losses)] if compared else []


def ranked(trials: Sequence[Trial], objective: Objective, n_kept: int) -> list[Trial]:
    """Trials that could be chosen, the best first: more examples, then the lower loss.

    Only those with scores and `n_kept` layers can be; a searcher may evaluate other sizes too.
    """
    able = [t for t in trials if t.complete and is_sized(t.tailoring, n_kept)]

    def rank(trial: Trial) -> tuple[int, float, float, int]:
        assert trial.scores is not None
        own = objective.scalar(trial.scores)
        proxy = objective.scalar(trial.scores, proxy=True)
        return -trial.scores.n_examples, own, proxy, trial.number

    return sorted(able, key=rank)


def write_results(
    folder: Path, chosen: Tailoring, front: Sequence[Trial], objective: Objective
) -> None:
    """Write the chosen tailoring and the Pareto front into the run's folder."""
    chosen.save(folder / BEST)
    tasks = [goal.task for goal in objective.goals]
    rows = [
        {
            "number": trial.number,
            "n_examples": trial.proposal.n_examples,
            "losses": {task: round(float(x), 6) for task, x in zip(tasks, losses, strict=True)},
            "tailoring": trial.tailoring.to_plain(),
        }
        for trial in front
        if trial.scores is not None
        for losses in [objective.losses(trial.scores)]
    ]
    write_atomically(folder / FRONT, dump_yaml(rows))
