"""Many tasks at once: the front, ParEGO's scalarisation, crowding. Losses are minimised.

Knows nothing of tailorings; rows are candidates, columns tasks.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["crowding", "draw_weights", "normalised", "parego", "pareto_front"]

Floats = NDArray[np.float64]

_RHO = 0.05  # share of the weighted sum: Knowles 2006, ParEGO, eq. 2


def pareto_front(losses: Floats) -> tuple[int, ...]:
    """Rows that no other row beats: as good in every task and better in one.

    Of equal rows the first alone is kept. Rows that are not finite are never on the front.

    Args:
        losses: Shape (n_candidates, n_tasks).

    Example:
        >>> pareto_front(np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 1.0]]))
        (0, 1)
    """
    front = []
    for row, ours in enumerate(losses):
        if not np.all(np.isfinite(ours)):
            continue
        no_worse = np.all(losses <= ours, axis=1)
        beaten = np.any(no_worse & np.any(losses < ours, axis=1))
        twin_before = np.any(np.all(losses[:row] == ours, axis=1))
        if not beaten and not twin_before:
            front.append(row)
    return tuple(front)


def normalised(losses: Floats, run: Floats) -> Floats:
    """Scale each task so that the run's best is 0 and its worst is 1.

    Args:
        losses: Shape (..., n_tasks).
        run: All finite losses of the run so far, shape (n_candidates, n_tasks).
    """
    finite = run[np.all(np.isfinite(run), axis=1)]
    if not len(finite):
        return losses
    low, high = finite.min(axis=0), finite.max(axis=0)
    scaled: Floats = (losses - low) / np.where(high > low, high - low, 1.0)
    return scaled


def parego(losses: Floats, weights: Floats) -> Floats:
    """The augmented Tchebycheff norm ``max_i(w_i f_i) + 0.05 sum_i w_i f_i``.

    Knowles 2006, https://doi.org/10.1109/TEVC.2005.851274.

    Args:
        losses: Normalised, shape (..., n_tasks).
        weights: Of sum 1, shape (n_tasks,).
    """
    weighted = losses * weights
    scalar: Floats = weighted.max(axis=-1) + _RHO * weighted.sum(axis=-1)
    return scalar


def draw_weights(n_tasks: int, rng: np.random.Generator) -> Floats:
    """Draw weights of sum 1, every mixture as likely as any other."""
    return rng.dirichlet(np.ones(n_tasks))


def crowding(losses: Floats) -> Floats:
    """How far each row's neighbours on a front are apart; ends are infinitely far.

    Deb et al. 2002 (NSGA-II), section III-B.

    Args:
        losses: One front, shape (n_candidates, n_tasks).
    """
    distance = np.zeros(len(losses))
    for column in losses.T:
        order = np.argsort(column, kind="stable")
        distance[order[[0, -1]]] = np.inf
        span = column[order[-1]] - column[order[0]]
        if len(order) > 2 and span > 0:
            distance[order[1:-1]] += (column[order[2:]] - column[order[:-2]]) / span
    return distance
