"""A loss that is not finite is a failure that names the first layer and the batch, by hand."""

import dataclasses
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from gptailor.core.tailoring import BASE, LayerSpec, Tailoring
from gptailor.engine.batches import Batch, pack
from gptailor.engine.engine import Engine
from gptailor.family import Family
from gptailor.tasks.task import Passage

N_LAYERS = 6
BROKEN = 7  # the token whose embedding is not finite in the spoilt family


def batches() -> tuple[Batch, ...]:
    """Four batches of one passage each; the broken token stands in the third alone."""
    rows = [[3, 4, 5], [8, 9, 10], [11, BROKEN, 12], [13, 14, 15]]
    packed = [pack([Passage(tuple(row), ((20, 21),))])[0] for row in rows]
    return tuple(packed)


def spoilt(family: Family, member: str, name: str, rows: slice, value: float) -> Family:
    """A family of which one tensor of one member has another value in some rows."""
    state = dict(family.states[member])
    state[name] = state[name].clone()
    state[name][rows] = value
    return dataclasses.replace(family, states={**family.states, member: state})


def run(family: Family, tailorings: Sequence[Tailoring], state_bytes: int) -> list[str | None]:
    engine = Engine(family, state_bytes=state_bytes)
    return [result.failure for result in engine.run(tailorings, batches())]


@pytest.mark.parametrize("state_bytes", [1, 1000, 2**28], ids=["a block a batch", "two", "one"])
def test_the_batch_is_counted_among_all_and_not_within_its_block(
    pico: Family, state_bytes: int
) -> None:
    family = spoilt(pico, BASE, "model.embed_tokens.weight", slice(BROKEN, BROKEN + 1), torch.nan)
    (failure,) = run(family, [Tailoring.whole(BASE, N_LAYERS)], state_bytes)
    assert failure == "non-finite hidden states after layer 0 (base:0), in batch 2"


def test_only_candidates_that_use_the_broken_layer_fail_and_it_is_named(pico: Family) -> None:
    huge = 3e38  # finite, as what a family is loaded from must be; what it is added up to is not
    family = spoilt(
        pico, "math", "model.layers.3.post_attention_layernorm.weight", slice(None), huge
    )
    whole = Tailoring.whole(BASE, N_LAYERS)
    with_math = Tailoring(tuple(LayerSpec.of(f"{m}:{i}") for m, i in [("base", 1), ("math", 3)]))
    merged = LayerSpec.of("math:3", "code:3", merge="task_arithmetic", scale=0.6)
    tailorings = [whole, with_math, Tailoring((merged, LayerSpec.of("base:4")))]
    sound, taken, mixed = run(family, tailorings, 1)
    assert sound is None
    assert taken == "non-finite hidden states after layer 1 (math:3), in batch 0"
    assert mixed is not None
    assert mixed.startswith("non-finite hidden states after layer 0 (")


def test_a_batch_that_was_halved_keeps_its_number(pico: Family) -> None:
    rows = [[3, 4, 5], [8, 9, 10], [11, 12, 13], [13, 14, 15], [16, BROKEN, 17], [18, 19, 20]]
    packed = [
        pack([Passage(tuple(row), ((20,),)) for row in pair], row_tokens=4)[0]
        for pair in (rows[:2], rows[2:4], rows[4:])
    ]
    name = "model.embed_tokens.weight"
    engine = Engine(spoilt(pico, BASE, name, slice(BROKEN, BROKEN + 1), torch.nan))
    whole = Tailoring.whole(BASE, N_LAYERS)

    def one_row_only(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
        if len(given[0]) > 1:
            raise RuntimeError("could not create a primitive")  # as oneDNN says it

    engine.layers.get(whole.layers[0]).register_forward_pre_hook(one_row_only)
    (result,) = engine.run([whole], packed)
    assert result.failure == "non-finite hidden states after layer 0 (base:0), in batch 2"
