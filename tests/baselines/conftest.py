"""A family of eight layers in memory, calibration rows, and slow ways to measure it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from gptailor.baselines import BaselineContext, Statistics
from gptailor.engine import Engine
from gptailor.family import Family, family_of
from gptailor.searchers.space import Space

N_LAYERS = 8
MEMBER = "math"


@pytest.fixture(scope="session")
def models(tiny_model: Callable[..., Any]) -> dict[str, Any]:
    """Stock models of the base and of one variant, which differ in every weight."""
    return {
        name: tiny_model("llama", seed=seed, num_hidden_layers=N_LAYERS)
        for seed, name in enumerate(("base", MEMBER))
    }


@pytest.fixture(scope="session")
def family(models: dict[str, Any], tiny_tokenizer: Any) -> Family:
    return family_of(models["base"], {MEMBER: models[MEMBER]}, tiny_tokenizer)


@pytest.fixture(scope="session")
def engine(family: Family) -> Engine:
    return Engine(family)


@pytest.fixture(scope="session")
def rows() -> list[tuple[int, ...]]:
    """Rows of unlike lengths; two of them begin alike."""
    rng = np.random.default_rng(0)
    drawn = [tuple(rng.integers(3, 320, size=n).tolist()) for n in (9, 17, 12, 5, 23, 14)]
    return [*drawn, (*drawn[0][:4], 7, 8, 9)]


@pytest.fixture
def statistics(engine: Engine, rows: list[tuple[int, ...]]) -> Statistics:
    return Statistics(engine, MEMBER, rows)


@pytest.fixture
def context(statistics: Statistics) -> Callable[..., BaselineContext]:
    """Factory: what a baseline of the member is given."""

    def make(n_removed: int = 3, seed: int = 0, **limits: Any) -> BaselineContext:
        return BaselineContext(statistics, Space(N_LAYERS, n_removed, (MEMBER,), **limits), seed)

    return make


class Slow:
    """A stock model without some layers, run row by row."""

    def __init__(self, model: Any, rows: Sequence[tuple[int, ...]]) -> None:
        self.model, self.rows = model, rows

    def run(self, row: Sequence[int], left: Sequence[int]) -> tuple[torch.Tensor, list[Any]]:
        """Logits (T, V) of one row, and the streams before the first layer and after each."""
        body, streams = self.model.model, []
        whole = body.layers
        body.layers = torch.nn.ModuleList([whole[layer] for layer in left])
        first = body.layers[0].register_forward_pre_hook(lambda _, given: streams.append(given[0]))
        hooks = [
            layer.register_forward_hook(
                lambda _, __, out: streams.append(out if torch.is_tensor(out) else out[0])
            )
            for layer in body.layers
        ]
        try:
            with torch.no_grad():
                logits = self.model(input_ids=torch.tensor([row]), use_cache=False).logits[0]
        finally:
            body.layers = whole
            for hook in (first, *hooks):
                hook.remove()
        return logits, [stream[0].double() for stream in streams]

    def loss(self, left: Sequence[int], rows: Sequence[tuple[int, ...]]) -> float:
        """Mean cross-entropy in nats a token."""
        found = []
        for row in rows:
            logprobs = self.run(row, left)[0].log_softmax(-1)
            found += [-float(logprobs[i, token]) for i, token in enumerate(row[1:])]
        return float(np.mean(found))

    def divergence(self, left: Sequence[int], rows: Sequence[tuple[int, ...]]) -> float:
        """Mean divergence from the whole model over its 64 likeliest tokens and all others."""
        found = []
        for row in rows:
            ours, whole = (
                self.run(row, layers)[0].double().softmax(-1)[:-1]
                for layers in (left, range(N_LAYERS))
            )
            for p, q in zip(whole, ours, strict=True):
                top = p.topk(64).indices
                p64, q64 = (torch.cat([x[top], (1 - x[top].sum())[None]]) for x in (p, q))
                found.append(float((p64 * (p64 / q64).log()).sum()))
        return float(np.mean(found))


@pytest.fixture
def slow(models: dict[str, Any], rows: list[tuple[int, ...]]) -> Slow:
    return Slow(models[MEMBER], rows)
