"""Streams of calibration rows are those that hooks see in a stock model."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from hooks import hooked
from torch import Tensor
from transformers import AutoModelForCausalLM

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.family import Family

# no two begin alike, so none shares a prefix with another; longer than a sliding window
ROWS = ((5, 9, 33, 12, 7, 60, 21, 8, 44, 13), (41, 11, 3, 28, 15, 50), (19, 36), (7, 5, 9, 33, 12))


def flat(states: list[Tensor], streams: Streams) -> list[Tensor]:
    """Of each batch the states without padding, (n, H)."""
    return [state[batch.ends > 0] for state, batch in zip(states, streams.batches, strict=True)]


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_streams_are_those_of_a_stock_model(
    family_of: Callable[..., Family], model_type: str
) -> None:
    family = family_of(model_type)
    stock = AutoModelForCausalLM.from_pretrained(family.paths["math"], dtype=torch.float32)
    streams = Streams(Engine(family), ROWS)
    orders = [batch.numbers for batch in streams.batches]
    assert sorted(sum(orders, ())) == [0, 1, 2, 3]
    whole = Tailoring.whole("math", 6)
    seen: Mapping[int, Any] = {
        number: hooked(stock.eval(), row, "model.layers.4.mlp.down_proj")
        for number, row in enumerate(ROWS)
    }
    found = list(streams.along(whole))
    assert len(found) == 7
    for depth, states in enumerate(found):
        for order, state in zip(orders, flat(states, streams), strict=True):
            wanted = torch.cat([seen[number][0][depth] for number in order])
            torch.testing.assert_close(state, wanted, rtol=1e-4, atol=1e-4)
    tapped = streams.tapped(LayerSpec.of("math:4"), found[4], "mlp.down_proj")
    for batch, (inputs, after) in enumerate(tapped):
        wanted = torch.cat([seen[number][1] for number in orders[batch]])
        here = inputs[streams.batches[batch].ends > 0]
        torch.testing.assert_close(here, wanted, rtol=1e-4, atol=1e-4)
        assert torch.equal(after, found[5][batch])
    layer = streams.engine.layers.get(LayerSpec.of("math:4"))
    assert not layer.get_submodule("mlp.down_proj")._forward_pre_hooks


def test_padding_and_the_first_token_of_each_row_do_not_count(
    family_of: Callable[..., Family],
) -> None:
    streams = Streams(Engine(family_of("llama")), ROWS)
    assert sum(int(kept.sum()) for kept in streams.kept) == sum(len(row) - 2 for row in ROWS)
    for kept, batch in zip(streams.kept, streams.batches, strict=True):
        assert not kept[batch.ends == 0].any()
        assert not kept[batch.positions == 0].any()
