"""Configs cut for fewer layers, judged by the original model with layers left out."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedModel

from gptailor.errors import FamilyError, TailoringError
from gptailor.family import layer_kinds, layers_path, refuse_unsupported, tailored_config
from gptailor.family.layout import Layout

TEN = ("llama", "qwen2", "qwen3", "gemma2", "gemma3_text", "mistral", "phi3", "olmo2")
TEN += ("smollm3", "gpt_neox")
_MIXED = ["sliding_attention", "full_attention", "full_attention"] * 2
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
MORE: dict[str, dict[str, Any]] = {
    "qwen3_moe": _EXPERTS | {"mlp_only_layers": [1], "decoder_sparse_step": 2},
    "deepseek_v3": {
        **{"first_k_dense_replace": 2, "n_routed_experts": 4, "num_experts_per_tok": 2},
        **{"n_group": 1, "topk_group": 1, "moe_intermediate_size": 16, "q_lora_rank": 8},
        **{
            "num_key_value_heads": 4,
            "kv_lora_rank": 8,
            "qk_rope_head_dim": 8,
            "qk_nope_head_dim": 8,
            "v_head_dim": 8,
        },
    },
    "llama4_text": {
        **{"no_rope_layers": [1, 1, 0, 1, 0, 1], "moe_layers": [1, 3, 4]},
        **{"num_local_experts": 2, "intermediate_size_mlp": 48, "attention_chunk_size": 4},
    },
    "gpt_oss": {"layer_types": _MIXED, "sliding_window": 4, "num_local_experts": 4},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32},
    "gpt2": {"n_positions": 64},
    "falcon": {},
    "cohere2": {"layer_types": _MIXED, "sliding_window": 4},
}


class _Skipped(nn.Module):
    """What is left of a layer that is cut: its input, in the layer's own kind of answer."""

    def __init__(self, like: nn.Module) -> None:
        super().__init__()
        self.attention_type = vars(like).get("attention_type")

    def forward(self, hidden: torch.Tensor, *_: object, **__: object) -> Any:
        return hidden


def _logits(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.randint(3, 300, (2, 19), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(tokens, use_cache=False).logits


def _tailored(model: PreTrainedModel, kept: list[int]) -> PreTrainedModel:
    layout = Layout.of(model)
    state = {}
    for name, tensor in model.state_dict().items():
        place = layout.layer_of(name)
        if place is None:
            state[name] = tensor
        for new, old in enumerate(kept):
            if place is not None and place[0] == old:
                state[f"{layout.layers}.{new}.{place[1]}"] = tensor
    smaller = AutoModelForCausalLM.from_config(tailored_config(model.config, kept))
    smaller.load_state_dict(state)
    return smaller.eval()


@pytest.mark.sampled(5)
@pytest.mark.parametrize("model_type", TEN)
@pytest.mark.parametrize("kept", [[0, 2, 3, 5], [1, 2, 4]], ids=str)
def test_a_tailored_config_gives_the_model_with_layers_left_out(
    tiny_model: Callable[..., PreTrainedModel], model_type: str, kept: list[int]
) -> None:
    model = tiny_model(model_type)
    smaller = _tailored(model, kept)
    layers = model.get_submodule(layers_path(model))
    for layer in range(6):
        if layer not in kept:
            layers[layer] = _Skipped(layers[layer])
    torch.testing.assert_close(_logits(smaller), _logits(model), rtol=0, atol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("model_type", MORE)
def test_other_architectures_can_be_cut_too(
    tiny_model: Callable[..., PreTrainedModel], model_type: str
) -> None:
    model, kept = tiny_model(model_type, **MORE[model_type]), [0, 2, 3, 5]
    smaller = _tailored(model, kept)
    layers = model.get_submodule(layers_path(model))
    for layer in (1, 4):
        if model_type == "falcon":  # its layers answer with a tuple
            layers[layer].forward = lambda hidden, **_: (hidden, None)
        else:
            layers[layer] = _Skipped(layers[layer])
    torch.testing.assert_close(_logits(smaller), _logits(model), rtol=0, atol=1e-5)


@pytest.mark.parametrize("model_type", TEN)
def test_a_tailored_config_survives_being_saved(
    tiny_model: Callable[..., PreTrainedModel], model_type: str, tmp_path: Any
) -> None:
    config = tailored_config(tiny_model(model_type).config, [0, 2, 5])
    config.save_pretrained(tmp_path)
    again = AutoConfig.from_pretrained(tmp_path)
    assert layer_kinds(again) == layer_kinds(config)


def test_the_original_config_is_left_as_it_is(tiny_model: Callable[..., PreTrainedModel]) -> None:
    config = tiny_model("smollm3").config
    before = config.to_dict()
    tailored_config(config, [0, 5])
    assert config.to_dict() == before


def test_kinds_tell_attention_types_and_missing_rope_apart(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    kinds = layer_kinds(tiny_model("smollm3").config)
    assert kinds[0] == kinds[1] == kinds[3] == kinds[4] != kinds[2] == kinds[5]
    kinds = layer_kinds(tiny_model("gemma2").config)
    assert kinds[0] == kinds[2] != kinds[1] == kinds[3]
    assert len(set(layer_kinds(tiny_model("llama").config))) == 1


def test_a_dense_layer_after_an_expert_one_is_refused() -> None:
    config = AutoConfig.for_model("deepseek_v3", num_hidden_layers=6, first_k_dense_replace=2)
    assert tailored_config(config, [0, 3, 5]).first_k_dense_replace == 1
    with pytest.raises(TailoringError, match="keep their order"):
        tailored_config(config, [0, 3, 1])


def test_a_sparse_step_becomes_a_list_of_dense_layers() -> None:
    config = AutoConfig.for_model("qwen3_moe", num_hidden_layers=6, decoder_sparse_step=2)
    cut = tailored_config(config, [0, 1, 3, 4])
    assert (cut.decoder_sparse_step, cut.mlp_only_layers) == (1, [0, 3])


def test_a_position_that_does_not_exist_is_refused(
    tiny_model: Callable[..., PreTrainedModel],
) -> None:
    with pytest.raises(TailoringError, match="position 6"):
        tailored_config(tiny_model("llama").config, [0, 6])


@pytest.mark.parametrize(
    "model_type",
    [
        "gemma3n_text",
        "zamba2",
        "t5",
        "bart",
        "bert",
        "mamba",
        "qwen3_next",
        "jamba",
        "diffllama",
        "emu3",
    ],
)
def test_what_can_not_be_cut_is_refused_with_a_sentence(model_type: str) -> None:
    with pytest.raises(FamilyError, match=f"models of type '{model_type}' are not supported: "):
        refuse_unsupported(CONFIG_MAPPING[model_type]())


def test_a_layer_that_depends_on_its_number_is_refused() -> None:
    config = AutoConfig.for_model("gpt2", scale_attn_by_inverse_layer_idx=True)
    with pytest.raises(FamilyError, match="scale_attn_by_inverse_layer_idx"):
        refuse_unsupported(config)
