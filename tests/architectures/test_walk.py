"""Every architecture is loaded, scored, cut, merged, exported and read back, and held to the truth.

The truth is the untouched Hugging Face model with other layers called in place of its own.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.batches import pack
from gptailor.engine.engine import Engine
from gptailor.engine.selfcheck import plain_logprobs, refuse_inexact
from gptailor.errors import TailoringError
from gptailor.export import export_checkpoint
from gptailor.family import layers_path
from gptailor.tasks.task import Passage

pytestmark = pytest.mark.slow

PASSAGES = [
    Passage((5, 9, 33, 12, 7, 60, 21, 8, 44, 13, 52), ((17, 4), (30, 31, 6, 19, 25))),
    Passage((41, 11, 3, 28, 15, 50), ((22, 57, 10),)),
    Passage((19, 36), ((8, 14), (47,), (8, 61, 2))),
]
ROW_TOKENS = 24  # a row for the first passage, a shorter one for the two others
# cut the first and the last; cut two of differing kinds
IN_PLACE = ((1, 2, 3, 4), (0, 1, 3, 5))
MOVED = ((5, 1, 0, 2), (0, 1, 5, 2), (0, 1, 2, 5))  # the first that the config can say


def tailored(order: tuple[int, ...]) -> Tailoring:
    """Take, take, merge two, take."""
    first, second, third, fourth = order
    return Tailoring(
        (
            LayerSpec.of(f"math:{first}"),
            LayerSpec.of(f"base:{second}"),
            LayerSpec.of(f"math:{third}", f"code:{third}", merge="task_arithmetic", scale=0.6),
            LayerSpec.of(f"code:{fourth}"),
        )
    )


def tailorings(family: Any) -> list[Tailoring]:
    """Those in place; one whose layers move, where they are of differing kinds."""
    chosen = [tailored(order) for order in IN_PLACE]
    if len(set(family.kinds)) == 1:
        return chosen
    for moved in map(tailored, MOVED):
        try:
            family.check(moved)
        except TailoringError:
            continue
        return [*chosen, moved]
    raise AssertionError("no order of layers can be said")


def logits_of(model: PreTrainedModel) -> Tensor:
    tokens = torch.randint(3, 64, (2, 19), generator=torch.Generator().manual_seed(7))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def reload(folder: Path) -> PreTrainedModel:
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(told.values()), told
    return model.eval()


def test_scores_and_stock_reloads_are_those_of_the_model_made_by_hand(
    opened: Any, by_hand: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    engine = Engine(opened.family)
    refuse_inexact(engine)
    asked, batches = tailorings(opened.family), pack(PASSAGES, row_tokens=ROW_TOKENS)
    ordered = sum((batch.passages for batch in batches), ())
    whole = logits_of(opened.models["base"])
    for number, (tailoring, result) in enumerate(
        zip(asked, engine.run(asked, batches), strict=True)
    ):
        truth = by_hand(opened.models, tailoring)
        wanted = logits_of(truth)
        assert (wanted - whole).abs().max() > 0.1 * wanted.abs().max()  # the layers matter
        assert result.targets is not None, result.failure
        scored = torch.cat([targets.logprob for targets in result.targets])
        torch.testing.assert_close(scored, plain_logprobs(truth, ordered), rtol=0, atol=1e-4)
        if number > 0 and len(set(opened.family.kinds)) == 1:
            continue  # the config of like layers does not depend on which are cut
        folder = tmp_path / f"out{number}"
        export_checkpoint(opened.family, tailoring, folder)
        stock = reload(folder)
        assert len(stock.get_submodule(layers_path(stock))) == 4
        torch.testing.assert_close(logits_of(stock), wanted, rtol=1e-5, atol=1e-5)
