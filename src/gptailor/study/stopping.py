"""When a study stops before its searcher is done."""

from collections.abc import Sequence

from gptailor.core.trial import Trial
from gptailor.errors import RecordError

__all__ = ["nothing_to_choose", "refuse_hopeless"]

_HOPELESS = 8  # trials that all failed, before anything succeeded


def refuse_hopeless(trials: Sequence[Trial]) -> None:
    """Stop a study whose trials all fail.

    Args:
        trials: All of them; or those of the size wanted, where searchers ablate others too.

    Raises:
        RecordError: The first trials failed, every one of them.
    """
    if len(trials) >= _HOPELESS and not any(trial.complete for trial in trials):
        raise RecordError(
            f"the first {len(trials)} candidates all failed, so the study stops; the last one: "
            f"{trials[-1].failure}; mend what made them fail, and name a new folder with --out"
        )


def nothing_to_choose(trials: Sequence[Trial], n_removed: int) -> RecordError:
    """The error of a study without a candidate to choose: why, and what to do.

    Args:
        trials: All of them; some may be of another size.
        n_removed: Layers that are to be cut.
    """
    failed = [trial for trial in trials if not trial.complete]
    if trials and len(failed) == len(trials):
        return RecordError(
            f"all {len(trials)} candidates failed; the last one: {failed[-1].failure}; mend what "
            "made them fail, and name a new folder with --out"
        )
    return RecordError(
        f"no candidate with {n_removed} layers cut was scored"
        + (f" (the last that failed: {failed[-1].failure})" if failed else "")
        + "; raise budget.timeout_s and run the same command again, or raise budget.max_trials and "
        "name a new folder"
    )
