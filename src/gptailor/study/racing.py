"""Racing: finalists that are surely not the best are not scored on all selection examples.

Maron & Moore 1994, *Hoeffding Races*; candidates are compared in pairs, by standard errors.
"""

from collections.abc import Mapping

from gptailor.core.objective import Objective
from gptailor.core.trial import Scores

__all__ = ["Ranks", "losses_of", "stages", "still_racing"]

Ranks = tuple[float, float, int]  # loss, loss by the proxy metric, trial
_FEWEST = 30  # examples a task, below which a standard error says little
_Z = 2.0  # standard errors behind the best at which a finalist is stopped


def stages(n_examples: int) -> tuple[int, ...]:
    """Numbers of examples at which finalists are compared, each about half of the next.

    Example:
        >>> stages(250)
        (32, 63, 125, 250)
    """
    rising = [n_examples]
    while (half := (rising[0] + 1) // 2) >= _FEWEST:
        rising.insert(0, half)
    return tuple(rising)


def losses_of(scores: Mapping[int, Scores], objective: Objective) -> dict[int, Ranks]:
    """Trial to what it is ranked by: its loss, its loss by the proxy metric, its number."""
    return {
        number: (objective.scalar(each), objective.scalar(each, proxy=True), number)
        for number, each in scores.items()
    }


def still_racing(scores: Mapping[int, Scores], objective: Objective, n_kept: int) -> list[int]:
    """The trials worth scoring on more examples, the best first.

    A trial is stopped if it is behind the best by `_Z` standard errors of the paired difference; or
    if its loss is higher, and it is so far behind by the proxy metric.

    Args:
        scores: Trial to its scores; all on the same examples.
        objective: Turns them into losses.
        n_kept: How many of the best are never stopped.
    """
    losses = losses_of(scores, objective)
    order = sorted(losses, key=losses.__getitem__)
    best = scores[order[0]]

    def is_behind(number: int) -> bool:
        gap, error = objective.difference(scores[number], best)
        proxy_gap, proxy_error = objective.difference(scores[number], best, proxy=True)
        return gap > _Z * error or (gap > 0 and proxy_gap > _Z * proxy_error)

    return [*order[:n_kept], *(each for each in order[n_kept:] if not is_behind(each))]
