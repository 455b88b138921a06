"""Statistics of a member are those of the stock model, run row by row."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from gptailor.baselines import Statistics
from gptailor.engine import Engine
from gptailor.errors import ConfigError


def without(*cuts: int) -> list[int]:
    return [layer for layer in range(8) if layer not in cuts]


def test_cosines_and_norms_are_means_over_tokens_before_the_final_norm(
    statistics: Statistics, rows: Any, slow: Any
) -> None:
    found = statistics.similarities()
    streams = [
        torch.cat(parts)
        for parts in zip(
            *[[s[1:] for s in slow.run(row, range(8))[1]] for row in rows],
            strict=True,
        )
    ]
    assert len(streams) == 9
    for i, left in enumerate(streams):
        assert float(found.norms[i]) == pytest.approx(float(left.norm(dim=-1).mean()), rel=1e-5)
        for j, right in enumerate(streams):
            expected = float(cosine_similarity(left, right, dim=-1).mean())
            assert float(found.cosines[i, j]) == pytest.approx(expected, abs=1e-5)


def test_angles_are_those_at_the_last_token_of_each_row(
    statistics: Statistics, rows: Any, slow: Any
) -> None:
    angles = statistics.similarities().angles
    ends = [[stream[-1] for stream in slow.run(row, range(8))[1]] for row in rows]
    for i in range(9):
        for j in range(i + 1, 9):
            cosines = [float(cosine_similarity(end[i], end[j], dim=0)) for end in ends]
            expected = np.mean([math.acos(cosine) / math.pi for cosine in cosines])
            assert float(angles[i, j]) == pytest.approx(expected, abs=1e-5)
    assert angles.isfinite().all()  # the diagonal's cosines may exceed 1


def test_losses_are_those_of_models_without_the_layers(
    statistics: Statistics, rows: Any, slow: Any
) -> None:
    cuts = [(0,), (3, 4), (7,)]
    found = statistics.losses([statistics.with_layers(without(*each)) for each in cuts], 10**6)
    assert found == pytest.approx([slow.loss(without(*each), rows) for each in cuts], abs=1e-4)
    few = statistics.losses([statistics.whole], 20)[0]  # two rows have 26 tokens
    assert few == pytest.approx(slow.loss(range(8), rows[:2]), abs=1e-4)


def test_divergences_are_from_the_whole_member_on_the_rows_asked(
    statistics: Statistics, rows: Any, slow: Any
) -> None:
    chosen = [4, 0, 6]
    lefts = [without(2), without(5, 6)]
    found = statistics.divergences([statistics.with_layers(left) for left in lefts], chosen)
    expected = [slow.divergence(left, [rows[row] for row in chosen]) for left in lefts]
    assert found == pytest.approx(expected, rel=1e-3)
    assert statistics.divergences([statistics.whole], [1])[0] == pytest.approx(0.0, abs=1e-6)


def test_taylor_scores_sum_over_rows_before_the_absolute_value(
    statistics: Statistics, rows: Any, models: Any
) -> None:
    model = models["math"]
    model.zero_grad()
    losses = [
        cross_entropy(model(torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:]))
        * (len(row) - 1)
        for row in rows
    ]
    total = sum(losses) / sum(len(row) - 1 for row in rows)
    torch.autograd.backward(total)
    expected = [
        float(sum((p.grad * p.detach()).abs().sum() for p in layer.parameters()))
        for layer in model.model.layers
    ]
    model.zero_grad()
    assert statistics.taylor_scores(10**6) == pytest.approx(expected, rel=1e-4)


def test_what_is_shared_is_run_once_and_counted_for_each_baseline(statistics: Statistics) -> None:
    statistics.begin()
    statistics.influences()
    first, run = statistics.used, statistics.layer_tokens
    assert first == run > 0
    statistics.begin()
    assert statistics.used == 0
    assert statistics.similarities().angles is statistics.similarities().angles
    assert statistics.used == first
    assert statistics.layer_tokens == run


def test_rows_without_two_tokens_are_refused(engine: Engine) -> None:
    with pytest.raises(ConfigError, match="no text has two tokens"):
        Statistics(engine, "base", [(5,), ()])
