"""Racing: finalists that are surely not the best are not scored on all selection examples.

Maron & Moore 1994, *Hoeffding Races*; candidates are compared in pairs, by standard errors. Where
the metric shows no sure difference, the proxy metric decides: decision 0060.
"""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from gptailor.core.objective import Objective, near_first
from gptailor.core.tailoring import Tailoring
from gptailor.core.trial import Scores
from gptailor.searchers.space import kept_positions

__all__ = ["best_first", "of_unlike_cuts", "stages", "still_racing"]

K = TypeVar("K")
_FEWEST = 30  # examples a task, below which a standard error says little
_Z = 2.0  # standard errors from which a difference is sure


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


def best_first(scores: Mapping[K, Scores], objective: Objective) -> list[K]:
    """Sort models, the best first.

    Those that are not surely behind the one of lowest loss come first, by the proxy metric, which
    distinguishes more models; the others follow, by their loss.

    Args:
        scores: Name to scores, all on the same examples; of equals the earlier one is first.
        objective: Turns them into losses.
    """
    own, proxy = (
        {name: objective.scalar(each, proxy=by_proxy) for name, each in scores.items()}
        for by_proxy in (False, True)
    )
    order = sorted(scores, key=lambda name: (own[name], proxy[name]))
    lowest = scores[order[0]]

    def is_near(name: K) -> bool:
        gap, error = objective.difference(scores[name], lowest)
        return gap <= _Z * error

    return near_first(order, is_near, proxy.__getitem__)


def still_racing(scores: Mapping[int, Scores], objective: Objective, n_kept: int) -> list[int]:
    """The trials worth scoring on more examples, the best first.

    A trial is stopped if it is behind the best by `_Z` standard errors of the paired difference; or
    if its loss is higher, and it is so far behind by the proxy metric.

    Args:
        scores: Trial to its scores; all on the same examples.
        objective: Turns them into losses.
        n_kept: How many of the best are never stopped.
    """
    order = best_first(scores, objective)
    best = scores[order[0]]

    def is_behind(number: int) -> bool:
        gap, error = objective.difference(scores[number], best)
        proxy_gap, proxy_error = objective.difference(scores[number], best, proxy=True)
        return gap > _Z * error or (gap > 0 and proxy_gap > _Z * proxy_error)

    return [*order[:n_kept], *(each for each in order[n_kept:] if not is_behind(each))]


def of_unlike_cuts(order: Sequence[int], tailorings: Mapping[int, Tailoring], n: int) -> list[int]:
    """The first `n` trials in an order of which no two keep the same layers: decision 0061."""
    first: dict[tuple[int, ...], int] = {}
    for number in order:
        first.setdefault(kept_positions(tailorings[number]), number)
    return list(first.values())[:n]
