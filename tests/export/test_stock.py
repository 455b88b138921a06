"""What any reader of checkpoints relies on: config, names, shapes and tokenizer are stock."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.export import export_checkpoint
from gptailor.export.older_readers import add_older_keys

TAILORING = Tailoring(
    (
        LayerSpec.of("base:0"),
        LayerSpec.of("math:2", "code:2", merge="task_arithmetic", scale=0.6),
        LayerSpec.of("code:5"),
    )
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "shard_bytes"),
    [
        *((name, 20_000) for name in ("llama", "mistral", "qwen2", "qwen3", "gemma2", "phi3")),
        *((name, 20_000) for name in ("gemma3_text", "olmo2", "gpt_neox")),
        *((name, 5_000_000_000) for name in ("llama", "gemma2", "gpt_neox")),
    ],
)
def test_an_exported_folder_is_what_transformers_would_have_saved(
    model_type: str, shard_bytes: int, opened: Callable[..., Any], tmp_path: Path
) -> None:
    family = opened(model_type).family
    folder = tmp_path / "hf"
    export_checkpoint(family, TAILORING, folder, dtype=torch.bfloat16, shard_bytes=shard_bytes)

    config = AutoConfig.from_pretrained(folder)
    assert config.num_hidden_layers == 3
    assert config.dtype == torch.bfloat16
    config.save_pretrained(tmp_path / "again")
    add_older_keys(tmp_path / "again", family.tokenizer)
    places = (folder, tmp_path / "again")
    said = [json.loads((place / "config.json").read_text()) for place in places]
    assert said[0] == said[1]

    stock = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    stock.save_pretrained(tmp_path / "stock")
    found, where = tensors_of(folder)
    assert found == tensors_of(tmp_path / "stock")[0]
    assert len(found) == len(stock.state_dict())
    index = folder / "model.safetensors.index.json"
    assert index.exists() == (shard_bytes == 20_000)
    if index.exists():
        assert json.loads(index.read_text())["weight_map"] == where

    tokenizer = AutoTokenizer.from_pretrained(folder)
    for text in ("The capital of France", "def f(x):\n\treturn 1", "déjà vu 中文 🦙", ""):
        tokens = tokenizer.encode(text)
        assert tokens == family.tokenizer.encode(text)
        assert tokenizer.decode(tokens) == family.tokenizer.decode(tokens)
    assert tokenizer.chat_template == family.tokenizer.chat_template
    assert tokenizer.special_tokens_map == family.tokenizer.special_tokens_map


def tensors_of(folder: Path) -> tuple[dict[str, tuple[tuple[int, ...], str]], dict[str, str]]:
    """Each tensor's shape and type, and the file it stands in."""
    found, where = {}, {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            assert opened.metadata()["format"] == "pt"  # what some readers ask for
            for name in opened.keys():  # noqa: SIM118  # not a dict
                part = opened.get_slice(name)
                found[name] = (tuple(part.get_shape()), part.get_dtype())
                where[name] = file.name
    return found, where
