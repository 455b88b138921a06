"""Families of random models, each beside its members as plain Hugging Face models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from gptailor.family import Family, MemberSpec, load_family

MEMBERS = ("base", "math", "code")


@dataclass(frozen=True)
class LoadedTask:
    """A family, and its members as plain models."""

    family: Family
    models: Mapping[str, PreTrainedModel]


@pytest.fixture(scope="module")
def opened(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., LoadedTask]:
    """Make a family of three random models, once a module for each architecture."""
    known: dict[str, LoadedTask] = {}

    def open_family(
        model_type: str, *, dtype: torch.dtype = torch.float32, **overrides: Any
    ) -> LoadedTask:
        key = repr((model_type, dtype, overrides))
        if key not in known:
            root = tmp_path_factory.mktemp(model_type)
            models = {
                member: tiny_model(model_type, seed=seed, **overrides)
                for seed, member in enumerate(MEMBERS)
            }
            for member, model in models.items():
                model.save_pretrained(root / member)
                tiny_tokenizer.save_pretrained(root / member)
            sources = {member: MemberSpec(path=str(root / member)) for member in MEMBERS}
            family = load_family(sources.pop("base"), sources, dtype=dtype)
            known[key] = LoadedTask(family, models)
        return known[key]

    return open_family


@pytest.fixture(scope="module")
def llama(opened: Callable[..., LoadedTask]) -> LoadedTask:
    return opened("llama")


# what some architectures need beside the common fields, so that llama.cpp can run them
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_NO_WINDOW = {"layer_types": None, "use_sliding_window": False, "sliding_window": None}
_TIED = {"tie_word_embeddings": True}
GGUF_FIELDS: Mapping[str, Mapping[str, Any]] = {
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": _NO_WINDOW,
    "qwen2_moe": {**_EXPERTS, "shared_expert_intermediate_size": 48, "layer_types": None},
    "qwen3": _NO_WINDOW,
    "qwen3_moe": {**_EXPERTS, "norm_topk_prob": True, "head_dim": 16},
    "olmoe": {"num_experts": 4, "num_experts_per_tok": 2, "num_key_value_heads": 4},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "mistral": {"sliding_window": None},
    "smollm3": {"no_rope_layers": None},
    "gemma": _TIED,
    "gemma2": _TIED,
    "cohere": _TIED,
    "olmo3": {"layer_types": ["sliding_attention", "full_attention"] * 3, "sliding_window": 4},
}


@pytest.fixture(scope="module")
def runnable(opened: Callable[..., LoadedTask]) -> Callable[..., Family]:
    """Make a family that llama.cpp can run: ``runnable("gemma2", head_dim=16)``."""

    def make(model_type: str, **overrides: Any) -> Family:
        return opened(model_type, **{**GGUF_FIELDS.get(model_type, {}), **overrides}).family

    return make
