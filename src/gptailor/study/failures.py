"""Failures of trials; and errors of a study of which the first trials, or all of them, failed."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from gptailor.core.objective import Goal
from gptailor.core.trial import Evaluation, Trial
from gptailor.errors import RecordError

__all__ = ["nothing_to_choose", "refuse_hopeless", "usable"]

_HOPELESS = 8  # trials that all failed, before anything succeeded


def usable(done: Evaluation, goals: Sequence[Goal]) -> Evaluation:
    """A failure in place of scores that give no finite loss; else the evaluation itself."""
    if done.scores is None:
        return done
    for goal, proxy in itertools.product(goals, (False, True)):
        metric = goal.measured(proxy=proxy)
        if not math.isfinite(done.scores.value(goal.task, metric)):
            failure = f"the {metric} of task {goal.task!r} is too large for a number"
            return dataclasses.replace(done, scores=None, failure=failure)
    return done


def refuse_hopeless(trials: Sequence[Trial]) -> None:
    """Stop a study whose first trials all failed.

    Raises:
        RecordError: They did.
    """
    if len(trials) >= _HOPELESS and not any(trial.complete for trial in trials):
        raise RecordError(
            f"the first {len(trials)} candidates all failed, so the study stops; the last one: "
            f"{trials[-1].failure}; mend what made them fail, and name a new folder with --out"
        )


def nothing_to_choose(trials: Sequence[Trial], n_removed: int) -> RecordError:
    """The error of a study without a candidate to choose: why, and what to do."""
    failed = [trial for trial in trials if not trial.complete]
    if trials and len(failed) == len(trials):
        return RecordError(
            f"all {len(trials)} candidates failed; the last one: {failed[-1].failure}; mend what "
            "made them fail, and name a new folder with --out"
        )
    return RecordError(
        f"no candidate with {n_removed} layers cut was scored"
        + (f" (the last that failed: {failed[-1].failure})" if failed else "")
        + f" in {len(trials)} trials: the searcher ended or the time was up; raise "
        "budget.timeout_s and run the same command again, or raise budget.max_trials and "
        "budget.layer_tokens and name a new folder"
    )
