"""The linear model finds what a made-up loss is made of."""

import numpy as np

from gptailor.searchers.space import Space, kept_positions
from gptailor.searchers.surrogate import describe, fit

SPACE = Space(12, 3, ("code", "math"), ("task_arithmetic",))


def test_layers_that_cost_more_when_cut_get_larger_coefficients() -> None:
    rng = np.random.default_rng(0)
    cost = np.linspace(2.0, 0.1, 12)
    drawn = [SPACE.random(rng) for _ in range(80)]
    cuts = np.array([[layer not in kept_positions(each) for layer in range(12)] for each in drawn])
    n_examples = rng.choice([3, 9], 80)
    losses = cuts @ cost + rng.standard_normal(80) / np.sqrt(n_examples) + (n_examples == 9)
    model = fit(describe(SPACE, drawn), losses, n_examples, np.full(80, 9))
    assert np.corrcoef(model.mean[:12], cost)[0, 1] > 0.9


def test_drawn_coefficients_spread_where_nothing_was_seen() -> None:
    rng = np.random.default_rng(0)
    whole = [SPACE.uniform((1, 2, layer)) for layer in range(3, 12)] * 3
    losses = np.array([float(place) for place in range(9)] * 3)
    model = fit(describe(SPACE, whole), losses, np.full(27, 3), np.full(27, 9))
    draws = np.array([model.draw(rng) for _ in range(200)])
    assert np.all(np.isfinite(draws))
    assert draws[:, 12 + 1].std() > draws[:, 5].std()  # code:0 was never taken, cut 5 was seen


def test_a_loss_that_never_changes_teaches_nothing_and_breaks_nothing() -> None:
    rng = np.random.default_rng(0)
    drawn = [SPACE.random(rng) for _ in range(10)]
    model = fit(describe(SPACE, drawn), np.full(10, 0.5), np.full(10, 3), np.full(10, 9))
    assert np.all(np.isfinite(model.draw(rng)))
