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


def test_the_posterior_is_that_of_the_normal_equations_with_more_features_than_candidates() -> None:
    rng = np.random.default_rng(0)
    wide = Space(80, 20, tuple(f"v{n}" for n in range(8)), ("task_arithmetic",))
    features = describe(wide, [wide.random(rng) for _ in range(60)])  # (60, 730)
    losses = np.arange(60.0)
    model = fit(features, losses, np.full(60, 9), np.full(60, 60))
    rows = features - features.mean(axis=0)
    target = np.log1p(losses / np.median(losses))
    target -= target.mean()
    kernel, likelihoods = rows @ rows.T, {}
    for noise in (0.03, 0.1, 0.3, 1.0, 3.0):
        matrix = kernel + noise * np.eye(60)
        variance = target @ np.linalg.solve(matrix, target) / 59
        determinant = np.linalg.slogdet(matrix)[1] - np.log(noise)  # without the mean's direction
        likelihoods[noise] = -0.5 * (59 * np.log(variance) + determinant), variance
    noise = max(likelihoods, key=lambda each: likelihoods[each][0])
    inverse = np.linalg.inv(rows.T @ rows / noise + np.eye(730))
    np.testing.assert_allclose(model.mean, inverse @ rows.T @ target / noise, atol=1e-9)
    covariance = likelihoods[noise][1] * inverse
    np.testing.assert_allclose(model.root @ model.root.T, covariance, atol=1e-9)
