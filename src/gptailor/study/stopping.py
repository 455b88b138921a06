"""When a study stops before its searcher is done. Knows nothing of searchers or models."""

from collections.abc import Sequence

from gptailor.errors import RecordError
from gptailor.trial import Trial

__all__ = ["out_of_time", "refuse_hopeless"]

_HOPELESS = 8  # trials that all failed, before anything succeeded


def out_of_time(elapsed: float, timeout_s: float | None) -> bool:
    """Whether the wall-clock budget is used up; seconds over all starts of the study."""
    return timeout_s is not None and elapsed >= timeout_s


def refuse_hopeless(trials: Sequence[Trial]) -> None:
    """Stop a study whose trials all fail.

    Args:
        trials: Those with as many layers cut as are to be cut.

    Raises:
        RecordError: The first trials failed, every one of them.
    """
    if len(trials) >= _HOPELESS and not any(trial.complete for trial in trials):
        raise RecordError(
            f"the first {len(trials)} candidates all failed, so the study stops; the last one: "
            f"{trials[-1].failure}"
        )
