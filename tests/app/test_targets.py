"""Targets become the smallest number of layers whose cut meets them, whichever layers these are."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from gptailor.app.targets import resolve_target
from gptailor.config import Config
from gptailor.core.layer_spec import LayerSpec, Source
from gptailor.core.tailoring import Tailoring
from gptailor.engine import Engine
from gptailor.engine.generate import model_of
from gptailor.errors import ConfigError
from gptailor.evaluation.timing import ROUNDS, in_turns, transformers_rates
from gptailor.family import Family, family_of
from gptailor.family.kv_cache import cache_bytes


def config(target: dict[str, Any], **more: Any) -> Config:
    tasks = ({"name": "t", "metric": "acc"},)
    return Config(family={"base": "b"}, target=target, tasks=tasks, **more)  # type: ignore[arg-type]


def cut(target: dict[str, Any], family: Family, **more: Any) -> Any:
    return resolve_target(config(target, **more), family)[0].remove


@pytest.fixture(scope="module")
def windowed(tiny_model: Callable[..., Any], tiny_tokenizer: Any) -> Family:
    """Five layers with a window of four tokens and one without."""
    kinds = ["sliding_attention"] * 5 + ["full_attention"]
    return family_of(tiny_model("gemma3_text", layer_types=kinds), {}, tokenizer=tiny_tokenizer)


def test_parameters_are_counted_exactly(pico: Family) -> None:
    per_layer = pico.layer_parameters[0]
    left = pico.parameters - 2 * per_layer
    assert cut({"parameters": left}, pico) == 2
    assert cut({"parameters": left - 1}, pico) == 3
    with pytest.raises(ConfigError, match=f"without 5 of 6 layers, {left - 3 * per_layer:,} para"):
        cut({"parameters": 10}, pico)
    with pytest.raises(ConfigError, match=f"the base has {pico.parameters:,} parameters and meets"):
        cut({"parameters": 1e9}, pico)


def test_the_cache_is_what_transformers_keeps(windowed: Family, tiny_model: Any) -> None:
    model = tiny_model("gemma3_text", layer_types=["sliding_attention"] * 5 + ["full_attention"])
    tokens = torch.zeros((2, 40), dtype=torch.long)
    kept = model(input_ids=tokens, use_cache=True).past_key_values.layers
    found = cache_bytes(windowed, context=40, batch=2, dtype=torch.bfloat16)
    assert found == tuple((each.keys.numel() + each.values.numel()) * 2 for each in kept)
    assert found[-1] > 10 * found[0]


def test_no_cut_misses_a_memory_target_though_layers_differ(windowed: Family) -> None:
    target = {"context": 200, "batch": 8, "dtype": "float32"}
    cached = cache_bytes(windowed, context=200, batch=8, dtype=torch.float32)
    sizes = [4 * n + one for n, one in zip(windowed.layer_parameters, cached, strict=True)]
    whole = 4 * windowed.parameters + sum(cached)
    limit = whole - sizes[0] - sizes[1]  # the last layer weighs more than two others
    assert sizes[5] > sizes[0] + sizes[1]
    assert cut({"memory": f"{limit}B"} | target, windowed) == 2
    assert cut({"memory": f"{limit - 1}B"} | target, windowed) == 3
    assert cut({"memory": f"{limit - 1}B"} | target, windowed, keep=(0, 1, 2, 3)) == 2


def test_a_speed_that_no_cut_reaches_is_a_sentence(pico: Family) -> None:
    with pytest.raises(ConfigError, match=r"can't be met: without 5 of 6 layers, it is .* base"):
        cut({"speedup": 900.0}, pico)
    with pytest.raises(ConfigError, match=r"the base makes .* tokens a second and meets 0\.1 tok"):
        cut({"tokens_per_s": 0.1}, pico)


def test_a_model_with_merged_layers_is_timed(pico: Family) -> None:
    whole, engine = Tailoring.whole("base", pico.n_layers), Engine(pico)
    pair = tuple(Source(member, 1) for member in ("code", "math"))
    merged = LayerSpec(pair, "linear", (("weights", (1.0, 3.0)),))
    tailoring = dataclasses.replace(whole, layers=(whole.layers[0], merged))
    engine.layers.get(merged)  # made as the search makes it
    timed = in_turns({"merged": transformers_rates(model_of(engine, tailoring))})
    assert len(timed["merged"]) == ROUNDS
    assert min(min(rates) for rates in timed["merged"]) > 0
