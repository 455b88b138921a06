"""Bayesian linear model of the loss over cuts, sources and merges.

It is fitted to every candidate of the run, on however few examples: what a layer's cut costs is
known better from all candidates without that layer than from any one of them. It only picks which
children are evaluated; scores decide.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.searchers.halving import Judge
from gptailor.searchers.searcher import SearchContext
from gptailor.searchers.space import Space, kept_positions

__all__ = ["Floats", "LossModel", "Surrogate", "describe", "fit"]

Floats = NDArray[np.float64]

_MIN_CANDIDATES = 8  # from which a model is fitted
_MAX_CANDIDATES = 1000  # that a model is fitted to: its cost must not grow with the run
# Prior standard deviations, relative to that of one cut: a source changes a layer, a cut removes
# it; the effect of a variant on all layers is known better than its effect on one.
_CUT, _PAIR, _SOURCE, _MEMBER, _MERGED = 1.0, 0.5, 0.15, 0.1, 0.1
_NOISES = (0.03, 0.1, 0.3, 1.0, 3.0)  # noise variance of the average trial / prior variance


@dataclass(frozen=True, slots=True)
class Surrogate:
    """Posterior of a linear model: one coefficient a feature of `describe`."""

    mean: Floats  # shape (n_features,)
    root: Floats  # a square root of the covariance, shape (n_features, n_features)

    def draw(self, rng: Generator) -> Floats:
        """Draw coefficients from the posterior, shape (n_features,): Thompson sampling."""
        drawn: Floats = self.mean + self.root @ rng.standard_normal(len(self.mean))
        return drawn


@dataclass(eq=False)
class LossModel:
    """Fits a `Surrogate` to the trials of a search."""

    context: SearchContext
    _rows: dict[Tailoring, Floats] = field(init=False, repr=False, default_factory=dict)

    def fit(self, judge: Judge) -> Surrogate | None:
        """Fit the latest candidates, each with the most examples it has; None if too few."""
        history = self.context.history
        losses = judge.proxy_losses(history.tailorings[-_MAX_CANDIDATES:])
        known = [tailoring for tailoring, loss in losses.items() if loss < np.inf]
        if len(known) < _MIN_CANDIDATES:
            return None
        n_examples = np.array(
            [self.context.history.most_examples(tailoring) for tailoring in known]
        )
        ours = np.array([losses[tailoring] for tailoring in known])
        n_layers = np.array([len(tailoring.layers) for tailoring in known])
        return fit(self._features(known), ours, n_examples, n_layers)

    def _features(self, tailorings: list[Tailoring]) -> Floats:
        """Rows of `describe`, kept from one fit to the next."""
        new = [each for each in tailorings if each not in self._rows]
        rows = self._rows | dict(zip(new, describe(self.context.space, new), strict=True))
        self._rows = {each: rows[each] for each in tailorings}
        return np.stack(list(self._rows.values()))  # (n_tailorings, n_features)


def describe(space: Space, tailorings: Sequence[Tailoring]) -> Floats:
    """Features of tailorings, scaled by their prior standard deviations.

    Returns:
        One row a tailoring, shape (n_tailorings, n_features): L layers cut or not; the number of
        neighbours that are both cut; the share of each of V variants in each layer, V * L; the
        share of each variant in all layers, V; the number of merged layers.
    """
    cut = np.ones((len(tailorings), space.n_layers))  # (N, L)
    taken = np.zeros((len(tailorings), len(space.variants), space.n_layers))  # (N, V, L)
    merged = np.zeros((len(tailorings), 1))
    for row, tailoring in enumerate(tailorings):
        cut[row, list(kept_positions(tailoring))] = 0.0
        for spec in tailoring.layers:
            merged[row] += len(spec.sources) > 1
            for member, share in _shares(spec):
                taken[row, space.variants.index(member), spec.position] = share
    pairs = (cut[:, 1:] * cut[:, :-1]).sum(axis=1, keepdims=True)  # (N, 1)
    flat = taken.reshape(len(tailorings), len(space.variants) * space.n_layers)  # (N, V * L)
    columns = (_CUT * cut, _PAIR * pairs, _SOURCE * flat, _MEMBER * taken.sum(2), _MERGED * merged)
    return np.concatenate(columns, axis=1)


def fit(
    features: Floats, losses: Floats, n_examples: NDArray[np.int64], n_layers: NDArray[np.int64]
) -> Surrogate:
    """Fit coefficients to losses; the noise level is the one of highest marginal likelihood.

    Bayesian linear regression in the eigenvectors of the features' Gram matrix: Bishop 2006,
    section 3.5. A singular value decomposition of the features takes three times as long with many
    layers and members, and LAPACK's does not always converge.

    Args:
        features: Of `describe`, shape (n_trials, n_features).
        losses: Finite, shape (n_trials,).
        n_examples: On how many examples each was measured; its noise variance falls with them.
        n_layers: How many layers each has.
    """
    weights = np.sqrt(n_examples / n_examples.mean())[:, None]  # (N, 1)
    # Other examples are harder or easier, and the costs of cuts do not add up exactly: each rung
    # and each number of layers has its own constant term, which is removed before the fit.
    kinds = np.unique(np.stack([n_examples, n_layers], axis=1), axis=0, return_inverse=True)[1]
    levels = weights * np.eye(kinds.max() + 1)[kinds.ravel()]  # (N, n_kinds)
    basis, _ = np.linalg.qr(levels)
    rows, target = weights * features, weights[:, 0] * _compressed(losses)  # (N, F), (N,)
    rows, target = rows - basis @ (basis.T @ rows), target - basis @ (basis.T @ target)
    squares, directions = np.linalg.eigh(rows.T @ rows)  # (F,), (F, F)
    squares = np.maximum(squares, 0.0)  # they are, but for rounding
    along = directions.T @ (rows.T @ target)  # (F,)
    n_free = max(1, len(target) - levels.shape[1])
    fits = [_evidence(squares, along, float(target @ target), n_free, each) for each in _NOISES]
    best = max(range(len(fits)), key=lambda index: fits[index][0])
    noise, variance = _NOISES[best], fits[best][1]
    mean = directions @ (along / (squares + noise))  # (F,)
    # Covariance: variance * (I - D diag(s / (s + noise)) D'); its root has the same form.
    known = 1.0 - np.sqrt(noise / (squares + noise))
    root = np.sqrt(variance) * (
        np.eye(features.shape[1]) - (directions * known) @ directions.T
    )  # (F, F)
    return Surrogate(mean, root)


def _evidence(
    squares: Floats, along: Floats, size: float, n_free: int, noise: float
) -> tuple[float, float]:
    """Log marginal likelihood (less a constant) and the prior variance that maximises it.

    `size` is the targets' squared length, of which `along` the eigenvectors is explained.
    """
    total = (size - float(np.sum(along**2 / (squares + noise)))) / noise
    variance = max(total / n_free, 1e-12)
    log_determinant = float(np.sum(np.log1p(squares / noise))) + n_free * np.log(noise)
    return -0.5 * (n_free * np.log(variance) + log_determinant), variance


def _compressed(losses: Floats) -> Floats:
    """Compress losses with log1p around the median, so that outliers do not dominate the fit."""
    above = losses - losses.min()
    middle = float(np.median(above))
    compressed: Floats = np.log1p(above / middle) if middle > 0 else above
    return compressed


def _shares(spec: LayerSpec) -> list[tuple[str, float]]:
    """Variants in a layer, and the weight or scale of each."""
    n_sources, weights = len(spec.sources), dict(spec.params).get("weights")
    scale = 1.0 / n_sources if spec.scale is None else spec.scale
    shares = weights if isinstance(weights, tuple) else (scale,) * n_sources
    return [
        (source.member, float(share))
        for source, share in zip(spec.sources, shares, strict=True)
        if source.member != BASE
    ]
