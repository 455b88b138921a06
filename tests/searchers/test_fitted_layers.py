"""Changes of candidates that have layers with fitted merging coefficients."""

import math

import numpy as np
import pytest

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.searchers.mutation import mutate
from gptailor.searchers.space import Space

FITTED = Tailoring(
    tuple(
        LayerSpec.of(f"base:{n}", f"code:{n}", f"math:{n}", merge="linear", weights=(-w, w, 1.0))
        for n in range(8)
        for w in [0.3 + n / 10]
    )
)
SPACE = Space(8, 2, ("code", "math"), ("task_arithmetic",), fitted=FITTED)


def test_layers_that_are_brought_back_are_the_fitted_ones() -> None:
    rng, seen = np.random.default_rng(0), set[int]()
    parent = SPACE.cut(FITTED, (3, 6))
    for _ in range(100):
        found = mutate(SPACE, parent, rng, rates={"swap": 1.0}, n_changes=2)
        assert found is not None
        for spec in found[0].layers:
            assert spec == FITTED.layers[spec.position]
            seen.add(spec.position)
    assert seen == set(range(8))


def test_noise_keeps_the_sum_of_negative_weights() -> None:
    rng = np.random.default_rng(0)
    changed = 0
    for _ in range(200):
        found = mutate(SPACE, SPACE.cut(FITTED, (3, 6)), rng, rates={"merge": 1.0})
        assert found is not None
        for spec in found[0].layers:
            weights = dict(spec.params).get("weights")
            if isinstance(weights, tuple) and spec != FITTED.layers[spec.position]:
                changed += 1
                assert math.fsum(weights) == pytest.approx(1.0)
                assert max(map(abs, weights)) < 2.0
    assert changed > 50
