"""A device is given work without waiting for it; and on a GPU scores are those of the CPU."""

import warnings
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.engine import Engine
from gptailor.engine.generate import continuations
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import FamilyError
from gptailor.family import Family
from gptailor.tasks.task import Passage

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
READS = ("_local_scalar_dense", "is_nonzero")  # a number is wanted now: a GPU has to finish first


class Calls(TorchDispatchMode):
    """The names of all operations, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.names.append(str(func.name()).removeprefix("aten::").partition(".")[0])
        return func(*args, **(kwargs or {}))


def passages(n: int) -> list[Passage]:
    rng = np.random.default_rng(0)
    rows = rng.integers(3, 300, (n, 12)).tolist()
    return [Passage(tuple(row[:9]), (tuple(row[9:]), tuple(row[8:10]))) for row in rows]


def candidates(n: int) -> list[Tailoring]:
    """The base, and models with one layer from elsewhere or merged."""
    merge = {"method": "task_arithmetic", "params": (("scale", 0.5),)}
    specs = [
        LayerSpec((Source("math", layer),))
        if layer % 2
        else LayerSpec((Source("code", layer), Source("math", layer)), **merge)
        for layer in range(5, 0, -1)
    ]
    base = Tailoring.whole(BASE, 6)
    changed = [
        Tailoring((*base.layers[: s.position], s, *base.layers[s.position + 1 :])) for s in specs
    ]
    return [base, *changed][:n]


def reads_before_the_last_product(engine: Engine, n: int) -> int:
    batches = engine.pack(passages(12))
    tailorings = candidates(n)
    engine.run(tailorings, batches)  # merged layers are made, the model's ways are found out
    with Calls() as calls:
        engine.run(tailorings, batches)
    last = max(index for index, name in enumerate(calls.names) if "linear" in name)
    return sum(name in READS for name in calls.names[:last])


def test_no_number_is_read_between_candidates(pico: Family) -> None:
    engine = Engine(pico)
    assert reads_before_the_last_product(engine, 6) == reads_before_the_last_product(engine, 1)


def test_the_check_before_a_search_needs_no_whole_model_where_members_are_limited(
    pico: Family,
) -> None:
    family = replace(pico)  # else it is known to be exact
    refuse_inexact(Engine(family, member_bytes=200_000))
    assert not any(tensor.is_meta for tensor in family.states[BASE].values())
    damaged = {name: t * 2 if "q_proj" in name else t for name, t in pico.states[BASE].items()}
    other = replace(pico, states={**pico.states, BASE: damaged})
    engine = Engine(other, member_bytes=200_000)
    engine.family = replace(pico)  # the model is made of other weights than the layers
    with pytest.raises(FamilyError, match="packed scores differ"):
        refuse_inexact(engine)


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("member_bytes", [None, 200_000])
@pytest.mark.parametrize("model_type", ["llama", "gemma2", "qwen3"])
def test_a_gpu_scores_as_the_cpu(
    family_of: Callable[..., Family], model_type: str, member_bytes: int | None
) -> None:
    family = family_of(model_type)
    engine = Engine(family)
    batches, tailorings = engine.pack(passages(12)), candidates(6)
    there = family if member_bytes else on_gpu(family)
    results = Engine(there, device="cuda", member_bytes=member_bytes).run(tailorings, batches)
    for mine, theirs in zip(results, engine.run(tailorings, batches), strict=True):
        assert mine.failure is None
        for one, other in zip(mine.targets or (), theirs.targets or (), strict=True):
            torch.testing.assert_close(one.logprob, other.logprob, atol=1e-3, rtol=0)


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_never_waits_within_a_walk(pico: Family) -> None:
    engine = Engine(on_gpu(pico), device="cuda")
    batches, tailorings = engine.pack(passages(12)), candidates(6)
    engine.run(tailorings, batches)
    with warnings.catch_warnings(record=True) as noted:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            engine.run(tailorings, batches)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    n_waits = sum("called a synchronizing" in str(one.message) for one in noted)
    assert n_waits <= 8  # the inputs, found out once for all candidates, and what is copied back


@pytest.mark.gpu
@needs_gpu
def test_a_gpu_writes_what_the_cpu_writes(pico: Family) -> None:
    text = ["The capital of France"]
    for tailoring in candidates(3):
        written = continuations(Engine(on_gpu(pico), device="cuda"), tailoring, text)
        assert written == continuations(Engine(pico), tailoring, text)


def on_gpu(family: Family) -> Family:
    states = {
        member: {name: tensor.cuda() for name, tensor in state.items()}
        for member, state in family.states.items()
    }
    return replace(family, states=states)
