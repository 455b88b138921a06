"""Exports are held against models put together by hand from plain Hugging Face models."""

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ExportError, FamilyError, TailoringError
from gptailor.export import export_checkpoint
from gptailor.family import MemberSpec, layers_path, load_family

pytestmark = pytest.mark.slow

MEMBERS = ("base", "math", "code")
SCALE = 0.6


class Nothing(nn.Module):
    """A cut layer."""

    def forward(self, hidden: Tensor, *args: Any, **arguments: Any) -> Tensor:
        return hidden


def kept_in_place(kept: Sequence[int], *, head: str = "base") -> Tailoring:
    """Take, take, merge two, take; each layer stays at its position."""
    first, second, third, fourth = kept
    return Tailoring(
        (
            LayerSpec.of(f"math:{first}"),
            LayerSpec.of(f"base:{second}"),
            LayerSpec.of(f"math:{third}", f"code:{third}", merge="task_arithmetic", scale=SCALE),
            LayerSpec.of(f"code:{fourth}"),
        ),
        head=LayerSpec.of(head),
    )


def by_hand(models: Mapping[str, PreTrainedModel], kept: Sequence[int]) -> PreTrainedModel:
    """The model of `kept_in_place`: all six layers stand, those that were cut do nothing."""
    model = copy.deepcopy(models["base"])
    path = layers_path(model)
    lists = {member: models[member].get_submodule(path) for member in MEMBERS}
    first, second, third, fourth = kept
    merged = copy.deepcopy(lists["base"][third])
    with torch.no_grad():
        for name, weight in merged.named_parameters():
            base = lists["base"][third].get_parameter(name)
            math = lists["math"][third].get_parameter(name)
            code = lists["code"][third].get_parameter(name)
            weight.copy_(base + SCALE * ((code - base) + (math - base)))
    chosen = {
        first: lists["math"][first],
        second: lists["base"][second],
        third: merged,
        fourth: lists["code"][fourth],
    }
    layers = model.get_submodule(path)
    for position in range(len(layers)):
        layers[position] = chosen.get(position, Nothing())
    return model


def some_tokens(n_tokens: int = 19) -> Tensor:
    return torch.randint(320, (2, n_tokens), generator=torch.Generator().manual_seed(7))


def logits_of(model: PreTrainedModel, **options: Any) -> Tensor:
    with torch.no_grad():
        return model(some_tokens(), use_cache=False, **options).logits


def reload(folder: Path, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    model, told = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    assert not any(told.values()), told
    return model.eval()


def beside(folder: Path) -> list[str]:
    """Everything in the folder that holds `folder`, hidden or not."""
    return sorted(path.name for path in folder.parent.iterdir())


@pytest.mark.parametrize("kept", [(1, 2, 3, 4), (0, 2, 3, 5)], ids=str)
@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])  # all are walked elsewhere
def test_a_stock_reload_scores_as_the_model_made_by_hand(
    model_type: str, kept: tuple[int, ...], opened: Any, tmp_path: Path
) -> None:
    family = opened(model_type)
    export_checkpoint(family.family, kept_in_place(kept), tmp_path / "out")
    model = reload(tmp_path / "out")
    assert len(model.get_submodule(layers_path(model))) == 4
    torch.testing.assert_close(
        logits_of(model), logits_of(by_hand(family.models, kept)), atol=1e-4, rtol=1e-4
    )


# caches that hold everything, a window, some of each; layers without rotary embeddings
@pytest.mark.parametrize("model_type", ["llama", "mistral", "gemma3_text", "smollm3", "gpt_neox"])
def test_generating_with_a_cache_equals_generating_without(
    model_type: str, opened: Any, tmp_path: Path
) -> None:
    export_checkpoint(opened(model_type).family, kept_in_place((0, 2, 3, 5)), tmp_path / "out")
    model = reload(tmp_path / "out")
    options = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    tokens = some_tokens()
    mask = torch.ones_like(tokens)
    cached = model.generate(tokens, attention_mask=mask, use_cache=True, **options)
    plain = model.generate(tokens, attention_mask=mask, use_cache=False, **options)
    assert cached.shape[1] == tokens.shape[1] + 8
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("model_type", ["llama", "gemma2"])
def test_a_tied_head_stays_tied(model_type: str, opened: Any, tmp_path: Path) -> None:
    family = opened(model_type, tie_word_embeddings=True)
    export_checkpoint(family.family, kept_in_place((0, 2, 3, 5)), tmp_path / "out")
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118  # not a mapping
    model = reload(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    torch.testing.assert_close(
        logits_of(model), logits_of(by_hand(family.models, (0, 2, 3, 5))), atol=1e-4, rtol=1e-4
    )


def test_embedding_norm_and_head_come_from_whom_the_tailoring_names(
    llama: Any, tmp_path: Path
) -> None:
    tailoring = Tailoring(
        Tailoring.whole("base", 6).layers,
        embedding=LayerSpec.of("math", "code", merge="linear", weights=(0.75, 0.25)),
        norm=LayerSpec.of("math"),
        head=LayerSpec.of("code"),
    )
    export_checkpoint(llama.family, tailoring, tmp_path / "out")
    model = reload(tmp_path / "out")
    math, code = llama.models["math"], llama.models["code"]
    assert torch.equal(model.model.norm.weight, math.model.norm.weight)
    assert torch.equal(model.lm_head.weight, code.lm_head.weight)
    torch.testing.assert_close(
        model.model.embed_tokens.weight,
        0.25 * code.model.embed_tokens.weight + 0.75 * math.model.embed_tokens.weight,
    )


def test_layers_may_stand_twice_and_move(llama: Any, tmp_path: Path) -> None:
    order = (("base", 5), ("math", 2), ("math", 2), ("code", 0), ("base", 5))
    tailoring = Tailoring(tuple(LayerSpec.of(f"{member}:{layer}") for member, layer in order))
    export_checkpoint(llama.family, tailoring, tmp_path / "out")
    hand = copy.deepcopy(llama.models["base"])
    hand.model.layers = nn.ModuleList(
        llama.models[member].model.layers[layer] for member, layer in order
    )
    model = reload(tmp_path / "out")
    torch.testing.assert_close(logits_of(model), logits_of(hand), atol=1e-4, rtol=1e-4)
    first, second = model.model.layers[1], model.model.layers[2]
    assert first.self_attn.q_proj.weight.data_ptr() != second.self_attn.q_proj.weight.data_ptr()
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        names = set(file.keys())
    assert {f"model.layers.{i}.self_attn.q_proj.weight" for i in range(5)} <= names


def test_a_moved_layer_keeps_its_window(opened: Any, tmp_path: Path) -> None:
    family = opened("gemma2")
    kinds = family.family.config.layer_types
    order = (3, 1, 0, 2, 5)
    tailoring = Tailoring(tuple(LayerSpec.of(f"base:{layer}") for layer in order))
    export_checkpoint(family.family, tailoring, tmp_path / "out")
    assert reload(tmp_path / "out").config.layer_types == [kinds[layer] for layer in order]


def test_bfloat16_members_come_back_to_the_bit(opened: Any, tmp_path: Path) -> None:
    family = opened("llama", dtype=torch.bfloat16)
    tailoring = kept_in_place((0, 2, 3, 5))
    export_checkpoint(family.family, tailoring, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == torch.bfloat16
    for name, weight in family.models["math"].model.layers[0].named_parameters():
        assert torch.equal(model.model.layers[0].get_parameter(name), weight.bfloat16()), name
    base, math, code = (
        family.models[member].model.layers[3].mlp.up_proj.weight.bfloat16().float()
        for member in MEMBERS
    )
    merged = base + SCALE * ((code - base) + (math - base))  # float32 inside, cast once
    torch.testing.assert_close(
        model.model.layers[2].mlp.up_proj.weight, merged.bfloat16(), rtol=0.008, atol=0
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_another_dtype_may_be_asked_for(dtype: torch.dtype, opened: Any, tmp_path: Path) -> None:
    family = opened("gemma3_text")
    export_checkpoint(family.family, kept_in_place((0, 2, 3, 5)), tmp_path / "out", dtype=dtype)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {dtype}  # noqa: SIM118


def test_small_shards_hold_the_same_model(llama: Any, tmp_path: Path) -> None:
    tailoring = kept_in_place((0, 2, 3, 5))
    export_checkpoint(llama.family, tailoring, tmp_path / "whole")
    export_checkpoint(llama.family, tailoring, tmp_path / "parts", shard_bytes=30_000)
    shards = sorted((tmp_path / "parts").glob("model-*.safetensors"))
    assert len(shards) > 2
    assert all(
        shard.stat().st_size < 30_000 + 4_096 or len(tensors_in(shard)) == 1 for shard in shards
    )
    assert torch.equal(logits_of(reload(tmp_path / "parts")), logits_of(reload(tmp_path / "whole")))


def tensors_in(shard: Path) -> list[str]:
    with safe_open(shard, "pt") as file:
        return list(file.keys())


def test_the_tokenizer_and_its_chat_template_are_carried_over(
    llama: Any, tiny_tokenizer: Any, tmp_path: Path
) -> None:
    export_checkpoint(llama.family, kept_in_place((0, 2, 3, 5)), tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = "The capital of France is Paris. def add(a, b):\n    é"
    assert tokenizer(text).input_ids == tiny_tokenizer(text).input_ids
    assert tokenizer.decode(tokenizer(text).input_ids) == text
    assert tokenizer.chat_template == tiny_tokenizer.chat_template
    chat = [{"role": "user", "content": "Hello"}]
    assert tokenizer.apply_chat_template(
        chat, tokenize=False, add_generation_prompt=True
    ) == tiny_tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True)


def test_a_generation_config_is_carried_over_even_if_it_contradicts_itself(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    source = tmp_path / "base"
    tiny_model("llama").save_pretrained(source)
    tiny_tokenizer.save_pretrained(source)
    # as the published Llama 2 chat checkpoints have it: a temperature, and no sampling
    told = {"temperature": 0.6, "do_sample": False, "eos_token_id": [1, 2], "max_length": 77}
    (source / "generation_config.json").write_text(json.dumps(told))
    family = load_family(MemberSpec(path=str(source)), {}, dtype=torch.float32)
    export_checkpoint(family, Tailoring.whole("base", 5), tmp_path / "out")
    written = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert told.items() <= (written | {"do_sample": written.get("do_sample", False)}).items()


def test_the_folder_holds_the_tailoring_the_card_and_further_files(
    llama: Any, tmp_path: Path
) -> None:
    tailoring = kept_in_place((0, 2, 3, 5))
    export_checkpoint(
        llama.family,
        tailoring,
        tmp_path / "out",
        card="# mine\n",
        extra_files={"NOTICE": "thanks\n"},
    )
    assert Tailoring.load(tmp_path / "out" / "tailoring.yaml") == tailoring
    assert (tmp_path / "out" / "README.md").read_text() == "# mine\n"
    assert (tmp_path / "out" / "NOTICE").read_text() == "thanks\n"


def test_without_a_card_one_is_written(llama: Any, tmp_path: Path) -> None:
    export_checkpoint(llama.family, kept_in_place((0, 2, 3, 5)), tmp_path / "my model")
    card = (tmp_path / "my model" / "README.md").read_text()
    n_parameters = reload(tmp_path / "my model").num_parameters()
    assert f"It has {n_parameters:,} parameters; the base has " in card
    assert "# my model\n" in card
    assert "Cut: 1, 4." in card


def test_the_config_is_stock(llama: Any, tmp_path: Path) -> None:
    export_checkpoint(llama.family, kept_in_place((0, 2, 3, 5)), tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 4
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert config["dtype"] == "float32"
    assert not {"quantization_config", "auto_map", "gptailor"} & config.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_exporting_leaves_the_family_as_it_was(
    dtype: torch.dtype, opened: Any, tmp_path: Path
) -> None:
    family = opened("llama", dtype=dtype).family
    config = family.config.to_dict()
    before = {
        member: {name: tensor.clone() for name, tensor in state.items()}
        for member, state in family.states.items()
    }
    export_checkpoint(family, kept_in_place((0, 2, 3, 5)), tmp_path / "out")
    assert family.config.to_dict() == config
    for member, state in family.states.items():
        for name, tensor in state.items():
            assert tensor.dtype == dtype
            assert torch.equal(tensor, before[member][name]), (member, name)


def test_exporting_prints_nothing(
    llama: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    export_checkpoint(llama.family, kept_in_place((0, 2, 3, 5)), tmp_path / "out")
    assert capfd.readouterr() == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == (level, bars)


def test_the_same_export_twice_gives_the_same_bytes(llama: Any, tmp_path: Path) -> None:
    tailoring = kept_in_place((0, 2, 3, 5))
    for name in ("a", "b"):
        export_checkpoint(llama.family, tailoring, tmp_path / name / "out")
    first, second = tmp_path / "a" / "out", tmp_path / "b" / "out"
    assert beside(first / "x") == beside(second / "x")
    for path in first.iterdir():
        assert path.read_bytes() == (second / path.name).read_bytes(), path.name


def test_a_tailoring_that_does_not_fit_is_refused_before_anything_is_written(
    llama: Any, tmp_path: Path
) -> None:
    with pytest.raises(TailoringError, match="base:6"):
        export_checkpoint(
            llama.family, Tailoring((LayerSpec.of("base:6"),)), tmp_path / "new" / "out"
        )
    assert list(tmp_path.iterdir()) == []


def test_values_that_a_dtype_can_not_hold_are_noticed(
    tiny_model: Callable[..., PreTrainedModel], tiny_tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.lm_head.weight[3] = 1e30
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    family = load_family(MemberSpec(path=str(tmp_path / "base")), {}, dtype=torch.float32)
    with pytest.raises(ExportError, match="not finite"):
        export_checkpoint(family, Tailoring.whole("base", 5), tmp_path / "out", dtype=torch.float16)
    assert beside(tmp_path / "out") == ["base"]


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "chat_template.jinja"])
def test_an_extra_file_can_not_replace_one_of_the_checkpoint(
    name: str, llama: Any, tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=f"{name}: is a file of the checkpoint"):
        export_checkpoint(
            llama.family, Tailoring.whole("math", 3), tmp_path / "out", extra_files={name: "x"}
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["../evil", "/tmp/evil", "a/b", "", ".", "..", "README.md", "a\0"])
def test_an_extra_file_has_a_plain_name(name: str, llama: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="not a name"):
        export_checkpoint(
            llama.family, Tailoring.whole("math", 3), tmp_path / "out", extra_files={name: "x"}
        )
    assert list(tmp_path.iterdir()) == []


def test_a_dtype_that_no_checkpoint_has_is_refused(llama: Any, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="float32, bfloat16, float16"):
        export_checkpoint(
            llama.family, Tailoring.whole("math", 3), tmp_path / "out", dtype=torch.int8
        )


def test_a_base_without_a_tokenizer_is_told(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "base")
    family = load_family(MemberSpec(path=str(tmp_path / "base")), {}, dtype=torch.float32)
    with pytest.raises(FamilyError, match="tokenizer"):
        export_checkpoint(family, Tailoring.whole("base", 3), tmp_path / "out")
    assert beside(tmp_path / "out") == ["base"]
