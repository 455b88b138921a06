"""A plain base and a chat variant: whose tokenizer, template and generation config go along."""

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import peft
import pytest
import torch
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import FamilyError
from gptailor.export import export_checkpoint
from gptailor.export.gguf.writer import export_gguf
from gptailor.family import Family, MemberSpec, load_family


@pytest.fixture
def open_family(tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path) -> Callable[..., Family]:
    """Factory: a base without a chat template, a variant ``chat`` with one, and other ends."""

    def made(tokenizer_from: str = "base", added: tuple[str, ...] = ()) -> Family:
        for name in ("base", "chat"):
            tokenizer = copy.deepcopy(tiny_tokenizer)
            model = tiny_model("llama", seed=len(name), num_hidden_layers=2)
            if name == "base":
                tokenizer.chat_template = None
            else:
                tokenizer.add_tokens(list(added), special_tokens=True)
                tokenizer.eos_token = "<pad>"
                model.config.eos_token_id = 2
                model.generation_config = GenerationConfig(eos_token_id=[1, 2], bos_token_id=0)
            model.save_pretrained(tmp_path / name)
            tokenizer.save_pretrained(tmp_path / name)
        base, chat = (MemberSpec(path=str(tmp_path / name)) for name in ("base", "chat"))
        return load_family(base, {"chat": chat}, dtype=torch.float32, tokenizer_from=tokenizer_from)

    return made


LAYERS = Tailoring((LayerSpec.of("chat:0"), LayerSpec.of("base:1")))


def test_the_bases_are_used_and_the_difference_is_said(open_family: Any, tmp_path: Path) -> None:
    family = open_family()
    (note,) = [note for note in family.notes if "exported" in note]
    assert note.startswith(
        "variant 'chat' differs from the base in its tokenizer, chat template, generation config "
        "(eos_token_id"
    )
    assert "; what the base has is used and exported, and family.tokenizer names" in note
    export_checkpoint(family, LAYERS, tmp_path / "out")
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template is None
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == 1
    assert "its tokenizer, chat template" in (tmp_path / "out" / "README.md").read_text(
        encoding="utf-8"
    )


def test_a_variants_are_used_and_exported(
    open_family: Any, tmp_path: Path, tiny_tokenizer: Any
) -> None:
    family = open_family("chat")
    (note,) = [note for note in family.notes if "exported" in note]
    assert note.startswith(
        "the base differs from the variant 'chat' in its tokenizer, chat template"
    )
    assert "what the variant 'chat' has is used" in note
    export_checkpoint(family, LAYERS, tmp_path / "out")
    found = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert found.chat_template == tiny_tokenizer.chat_template == family.tokenizer.chat_template
    assert found.eos_token == "<pad>"
    assert AutoConfig.from_pretrained(tmp_path / "out").eos_token_id == 2
    assert GenerationConfig.from_pretrained(tmp_path / "out").eos_token_id == [1, 2]
    export_gguf(family, LAYERS, tmp_path / "out.gguf", dtype="f32")
    fields = gguf.GGUFReader(tmp_path / "out.gguf").fields
    assert fields["tokenizer.chat_template"].contents() == tiny_tokenizer.chat_template
    assert fields["tokenizer.ggml.eos_token_id"].contents() == 2


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
def test_an_adapter_gives_the_generation_config_beside_it(
    tiny_model: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama", num_hidden_layers=2)
    model.save_pretrained(tmp_path / "base")
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["q_proj"]))
    wrapped.save_pretrained(tmp_path / "chat")
    for name in ("base", "chat"):
        tiny_tokenizer.save_pretrained(tmp_path / name)
    GenerationConfig(eos_token_id=[1, 2], repetition_penalty=1.05).save_pretrained(
        tmp_path / "chat"
    )
    base, chat = (MemberSpec(path=str(tmp_path / name)) for name in ("base", "chat"))
    family = load_family(base, {"chat": chat}, dtype=torch.float32)
    assert any("generation config (" in note for note in family.notes)
    assert family.generation_config.repetition_penalty is None
    family = load_family(base, {"chat": chat}, dtype=torch.float32, tokenizer_from="chat")
    export_checkpoint(family, LAYERS, tmp_path / "out")
    found = GenerationConfig.from_pretrained(tmp_path / "out")
    assert (found.eos_token_id, found.repetition_penalty) == ([1, 2], 1.05)


def test_tokens_without_a_row_are_refused(open_family: Any) -> None:
    with pytest.raises(FamilyError, match=r"1 tokens of chat \('<turn>'\) have another id"):
        open_family("chat", added=("<turn>",))
    with pytest.raises(FamilyError, match="unknown member 'caht'; did you mean 'chat'"):
        open_family("caht")
