"""Families of random models, each beside its members as plain Hugging Face models."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from gptailor.family import Family, MemberSource, load_family

MEMBERS = ("base", "math", "code")


@dataclass(frozen=True)
class Opened:
    """A family, and its members as plain models."""

    family: Family
    models: Mapping[str, PreTrainedModel]


@pytest.fixture(scope="module")
def opened(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Opened]:
    """Make a family of three random models, once a module for each architecture."""
    known: dict[str, Opened] = {}

    def open_family(
        model_type: str, *, dtype: torch.dtype = torch.float32, **overrides: Any
    ) -> Opened:
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
            sources = {member: MemberSource(str(root / member)) for member in MEMBERS}
            family = load_family(sources.pop("base"), sources, dtype=dtype)
            known[key] = Opened(family, models)
        return known[key]

    return open_family


@pytest.fixture(scope="module")
def llama(opened: Callable[..., Opened]) -> Opened:
    return opened("llama")
