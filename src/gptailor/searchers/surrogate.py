"""A linear model of the loss: what cutting each layer costs, what taking it from elsewhere gives.

Fitted to every candidate of the run, however few examples it was tried on: a layer that is cut in
half of the candidates is known far better from all of them than any one candidate is from its own
examples. It only says which children are worth asking; scores decide. Knows nothing of tasks.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.searchers.space import Space, kept_positions

__all__ = ["Surrogate", "describe", "fit"]

Floats = NDArray[np.float64]

# Prior standard deviations, relative to that of one cut. A source changes a layer where a cut
# removes it; what a variant does to every layer alike is better known than what it does to one.
_CUT, _PAIR, _SOURCE, _MEMBER, _MERGED = 1.0, 0.5, 0.15, 0.1, 0.1
_NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)  # noise variance of the average trial over prior variance


@dataclass(frozen=True, slots=True)
class Surrogate:
    """The posterior of a linear model: one coefficient a feature of `describe`.

    Args:
        mean: Shape (n_features,).
        root: A square root of the covariance, shape (n_features, n_features).
    """

    mean: Floats
    root: Floats

    def draw(self, rng: np.random.Generator) -> Floats:
        """Draw coefficients as likely as they are (Thompson sampling)."""
        drawn: Floats = self.mean + self.root @ rng.standard_normal(len(self.mean))
        return drawn


def describe(space: Space, tailorings: Sequence[Tailoring]) -> Floats:
    """One row a tailoring: layers cut, neighbours cut, shares taken from each variant, merges."""
    cut = np.ones((len(tailorings), space.n_layers))
    taken = np.zeros((len(tailorings), len(space.variants), space.n_layers))
    merged = np.zeros((len(tailorings), 1))
    for row, tailoring in enumerate(tailorings):
        cut[row, list(kept_positions(tailoring))] = 0.0
        for spec in tailoring.layers:
            merged[row] += len(spec.sources) > 1
            for member, share in _shares(spec):
                taken[row, space.variants.index(member), spec.position] = share
    pairs = (cut[:, 1:] * cut[:, :-1]).sum(axis=1, keepdims=True)
    flat = taken.reshape(len(tailorings), len(space.variants) * space.n_layers)
    columns = (_CUT * cut, _PAIR * pairs, _SOURCE * flat, _MEMBER * taken.sum(2), _MERGED * merged)
    return np.concatenate(columns, axis=1)


def fit(
    features: Floats, losses: Floats, n_examples: NDArray[np.int64], n_layers: NDArray[np.int64]
) -> Surrogate:
    """Fit coefficients to losses; of many noise levels the likeliest is taken.

    Args:
        features: Of `describe`, shape (n_trials, n_features).
        losses: One a trial, finite.
        n_examples: On how many examples each was measured; noise falls with it.
        n_layers: How many layers each has.
    """
    weights = np.sqrt(n_examples / n_examples.mean())[:, None]
    # Other examples are harder or easier, and the cost of cuts does not add up exactly: each rung
    # and each number of layers has a level of its own, taken out beforehand.
    kinds = np.unique(np.stack([n_examples, n_layers], axis=1), axis=0, return_inverse=True)[1]
    levels = weights * np.eye(kinds.max() + 1)[kinds.ravel()]
    basis, _ = np.linalg.qr(levels)
    rows, target = weights * features, weights[:, 0] * _tamed(losses)
    rows, target = rows - basis @ (basis.T @ rows), target - basis @ (basis.T @ target)
    left, sizes, right = np.linalg.svd(rows, full_matrices=False)
    along = left.T @ target
    rest = max(float(target @ target - along @ along), 0.0)
    n_free = max(1, len(target) - levels.shape[1])
    fits = [_evidence(sizes**2, along, rest, n_free, noise) for noise in _NOISES]
    best = max(range(len(fits)), key=lambda index: fits[index][0])
    noise, variance = _NOISES[best], fits[best][1]
    shrunk = sizes / (sizes**2 + noise)
    mean = right.T @ (shrunk * along)
    # Covariance: variance * (I - R' diag(s^2 / (s^2 + noise)) R); its root is alike.
    known = 1.0 - np.sqrt(noise / (sizes**2 + noise))
    root = np.sqrt(variance) * (np.eye(features.shape[1]) - (right.T * known) @ right)
    return Surrogate(mean, root)


def _evidence(
    squares: Floats, along: Floats, rest: float, n_free: int, noise: float
) -> tuple[float, float]:
    """Log marginal likelihood (less a constant) and the prior variance that maximises it."""
    total = float(np.sum(along**2 / (squares + noise))) + rest / noise
    variance = max(total / n_free, 1e-12)
    log_determinant = float(np.sum(np.log1p(squares / noise))) + n_free * np.log(noise)
    return -0.5 * (n_free * np.log(variance) + log_determinant), variance


def _tamed(losses: Floats) -> Floats:
    """Bring in the long tail of broken candidates: among good ones it would drown everything."""
    above = losses - losses.min()
    middle = float(np.median(above))
    tamed: Floats = np.log1p(above / middle) if middle > 0 else above
    return tamed


def _shares(spec: LayerSpec) -> list[tuple[str, float]]:
    """How much of each variant is in a layer."""
    n_sources, weights = len(spec.sources), dict(spec.params).get("weights")
    scale = 1.0 / n_sources if spec.scale is None else spec.scale
    shares = weights if isinstance(weights, tuple) else (scale,) * n_sources
    return [
        (source.member, float(share))
        for source, share in zip(spec.sources, shares, strict=True)
        if source.member != BASE
    ]
