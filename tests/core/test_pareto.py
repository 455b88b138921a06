"""Fronts and scalarisation, against numbers worked out by hand."""

import numpy as np
import pytest

from gptailor.core.objective import draw_weights, normalised, parego, pareto_front


def test_the_front_is_what_nothing_else_beats() -> None:
    losses = np.array([[0.0, 1.0], [1.0, 0.0], [0.5, 0.5], [0.6, 0.6], [0.5, 0.5], [np.inf, -1.0]])
    assert pareto_front(losses) == (0, 1, 2)


def test_the_front_equals_a_slow_and_obvious_one() -> None:
    losses = np.random.default_rng(0).integers(0, 6, (40, 3)).astype(float)
    losses = np.unique(losses, axis=0)
    slow = tuple(
        i
        for i, ours in enumerate(losses)
        if not any(
            all(a <= b for a, b in zip(other, ours, strict=True)) and tuple(other) != tuple(ours)
            for other in losses
        )
    )
    assert pareto_front(losses) == slow


def test_normalising_ignores_what_is_not_finite_and_what_does_not_vary() -> None:
    run = np.array([[1.0, 5.0], [3.0, 5.0], [np.inf, 5.0]])
    np.testing.assert_allclose(normalised(np.array([[2.0, 5.0]]), run), [[0.5, 0.0]])


def test_parego_is_the_largest_weighted_loss_and_a_twentieth_of_their_sum() -> None:
    assert parego(np.array([0.4, 1.0]), np.array([0.5, 0.5])) == pytest.approx(0.5 + 0.05 * 0.7)


def test_drawn_weights_sum_to_one() -> None:
    assert draw_weights(4, np.random.default_rng(0)).sum() == pytest.approx(1.0)
