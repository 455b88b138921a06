"""What a tailoring writes in the engine is what stock transformers write with the export."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.engine import Engine
from gptailor.engine.generate import generate
from gptailor.errors import TailoringError
from gptailor.export import export_checkpoint
from gptailor.family import Family
from gptailor.tasks.task import Prompt

N_NEW = 10
LENGTHS = (3, 11, 7, 20, 1, 7)  # the windows are 4 and 8 tokens long


def prompts_of(n_tokens: int, **limits: Any) -> list[Prompt]:
    generator = torch.Generator().manual_seed(1)
    drawn = [torch.randint(1, n_tokens, (n,), generator=generator).tolist() for n in LENGTHS]
    return [Prompt(tuple(tokens), N_NEW, **limits) for tokens in drawn]


def written_one_by_one(folder: Path, prompts: list[Prompt]) -> list[list[int]]:
    """The slow truth: an export, read by transformers, writes after one prompt at a time."""
    stock = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for prompt in prompts:
        tokens = torch.tensor([prompt.tokens])
        out = stock.generate(
            tokens,
            attention_mask=torch.ones_like(tokens),
            do_sample=False,
            max_new_tokens=N_NEW,
            pad_token_id=0,
        )
        found.append(out[0, tokens.shape[1] :].tolist())
    return found


@pytest.fixture
def family_that_writes(
    family_in_memory: Callable[..., Family], tiny_fields: Any, tiny_words: Any
) -> Callable[..., Family]:
    """Factory: two random members of a model type with a tokenizer."""

    def make(model_type: str, **parts: Any) -> Family:
        family = family_in_memory(model_type, tiny_fields(model_type), ("base", "math"))
        return dataclasses.replace(family, own_tokenizer=tiny_words, **parts)

    return make


def with_a_cut(family: Family) -> Tailoring:
    """A merged first layer, then layers of both members, one of them cut; as kinds allow."""
    n = family.n_layers
    for cut in range(1, n):
        specs = [LayerSpec((Source(("math", "base")[i % 2], i),)) for i in range(n) if i != cut]
        both = (Source("base", 0), Source("math", 0))
        merged = LayerSpec(both, "linear", (("weights", (0.5, 0.5)),))
        try:
            tailoring = Tailoring((merged, *specs[1:]))
            family.check(tailoring)
        except TailoringError:
            continue
        return tailoring
    raise AssertionError("no layer can be cut")


@pytest.mark.parametrize(
    "model_type", ["llama", "gemma2", "opt", "qwen3_moe", "gpt_oss", "llama4_text"]
)
def test_a_batch_writes_what_the_export_writes_prompt_by_prompt(
    model_type: str, family_that_writes: Any, tmp_path: Path
) -> None:
    family = family_that_writes(model_type)
    tailoring, prompts = with_a_cut(family), prompts_of(family.config.vocab_size)
    export_checkpoint(family, tailoring, tmp_path)
    written = generate(Engine(family), tailoring, prompts)
    truth = written_one_by_one(tmp_path, prompts)
    assert [list(answer.tokens) for answer in written.answers or ()] == truth
    assert len({tuple(row) for row in truth}) > 3


def test_penalties_and_the_end_of_the_generation_config_are_kept(
    family_that_writes: Any, tmp_path: Path
) -> None:
    plain = family_that_writes("llama")
    tailoring, prompts = with_a_cut(plain), prompts_of(plain.config.vocab_size)
    free = generate(Engine(plain), tailoring, prompts).answers or ()
    config = GenerationConfig(repetition_penalty=1.5, eos_token_id=[free[0].tokens[4], 5])
    family = dataclasses.replace(plain, generation_config=config)
    export_checkpoint(family, tailoring, tmp_path)
    written = generate(Engine(family), tailoring, prompts).answers or ()
    truth = written_one_by_one(tmp_path, prompts)
    assert [list(answer.tokens) for answer in written] == truth
    assert any(len(row) < N_NEW for row in truth)
    assert written != free
