"""Several tasks at once: the Pareto front and ParEGO's scalarisation; losses are minimised.

Losses are arrays with one row a candidate and one column a task.
"""

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_weights", "normalised", "parego", "pareto_front"]

Floats = NDArray[np.float64]

_RHO = 0.05  # share of the weighted sum: Knowles 2006, ParEGO, eq. 2


def pareto_front(losses: Floats) -> tuple[int, ...]:
    """Indices of the rows that no other row dominates: as good in every task and better in one.

    Of equal rows only the first is on the front; rows that are not finite never are.

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
