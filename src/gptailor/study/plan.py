"""Plan and Progress: what a study is to do, how far it is, and how long the rest will take."""

from collections.abc import Mapping
from dataclasses import dataclass

from gptailor.core.objective import Goal
from gptailor.core.trial import Trial

__all__ = ["Plan", "Progress", "roughly", "time_left"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What a study is to do.

    Args:
        goals: One a task.
        members: The base and the variants, whose whole models are scored for comparison.
        n_layers: Layers of each member.
        n_removed: Layers to cut; only candidates with exactly so many cut can be chosen.
        rungs: Numbers of examples at which candidates are compared, rising.
        sizes: Split to the most examples that any task has there.
        max_trials: Evaluations in all.
        layer_tokens: Tokens times layers that the search runs; None for no limit.
        timeout_s: Wall-clock seconds of search over all starts; None for no limit.
        finalists: How many candidates are compared on the selection split.
        guard: Whether a candidate whose greedy text is dead is chosen only if all are.
        tests_all: Whether every candidate is scored on the test split, not only the chosen one.
        n_steps: In which the merging coefficients of the uncut model are fitted first.
        fit_part: Part of `timeout_s` that they may take.
    """

    goals: tuple[Goal, ...]
    members: tuple[str, ...]
    n_layers: int
    n_removed: int
    rungs: tuple[int, ...]
    sizes: Mapping[str, int]
    max_trials: int
    layer_tokens: int | None = None
    timeout_s: float | None = None
    finalists: int = 8
    guard: bool = False
    tests_all: bool = False
    n_steps: int = 0
    fit_part: float = 0.0

    @property
    def n_kept(self) -> int:
        """Layers of a candidate that can be chosen."""
        return self.n_layers - self.n_removed


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a study is."""

    # ``references``, ``coefficients``, ``search``, ``selection``, ``repair``, ``test`` or ``done``
    phase: str
    n_trials: int  # trials finished so far
    max_trials: int  # trials in all
    share: float  # of the budget that is spent: of trials, or of layer-tokens if that is more
    elapsed: float  # seconds of search over all starts
    # the best trial so far: its number, its loss, and on how many examples; None before
    # there is one. More examples go before a lower loss.
    best: tuple[int, float, int] | None
    examples: int  # examples scored in this start, over all tasks
    seconds: float  # seconds of this start
    last: Trial | None = None  # the trial that just finished; None at a change of phase
    left_s: float | None = None  # seconds left, as expected; None where nothing is known
    relative: bool = True  # whether losses are shares of the base's scores
    steps: tuple[int, int] | None = None  # of the fit of coefficients, while it lasts: done, in all


def time_left(
    share: float, elapsed: float, *, expected_s: float | None, timeout_s: float | None
) -> float | None:
    """Seconds left of a search; None where nothing is known.

    At the pace so far; and the earlier it is, the more by the forecast: the first trials are on few
    examples, and say little of the others.

    Args:
        share: Of the budget that is spent.
        elapsed: Seconds in which it was.
        expected_s: Seconds of the whole, as forecast; None without a forecast.
        timeout_s: Seconds after which the search stops; None for no limit.
    """
    paced = elapsed * (1.0 / share - 1.0) if share > 0 else None
    left = paced
    if expected_s is not None:
        left = (1.0 - share) ** 2 * expected_s + share * (paced or 0.0)
    if timeout_s is not None and left is not None:
        left = min(left, max(0.0, timeout_s - elapsed))
    return left


def roughly(seconds: float) -> str:
    """A time for people, such as ``about 5 min``."""
    return f"about {seconds / 60:.0f} min" if seconds >= 90 else f"about {seconds:.0f} s"
