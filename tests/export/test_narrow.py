"""Idle heads and neurons are left out of stock checkpoints, whose logits stay what they were."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import FamilyError
from gptailor.export import card_facts, export_checkpoint, export_gguf
from gptailor.export.narrow import head_counts, narrowing
from gptailor.family import Family, MemberSpec, load_family
from gptailor.family.gated_layer import DOWN, OUT, GatedLayer

N_LAYERS = 3
Made = tuple[Family, PreTrainedModel, Tailoring]
FIELDS: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True},
    "qwen2": {"layer_types": None, "use_sliding_window": False, "sliding_window": None},
    "qwen3": {"layer_types": None, "use_sliding_window": False, "sliding_window": None},
}


@pytest.fixture(scope="module")
def idle(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Made]:
    """A family of one model with 4 kv-groups, some of it idle; that model with idle parts."""

    def make(model_type: str, groups: tuple[int, ...], neurons: int, **own: Any) -> Made:
        fields = FIELDS.get(model_type, {}) | {"num_hidden_layers": N_LAYERS} | own
        model = tiny_model(model_type, num_attention_heads=8, num_key_value_heads=4, **fields)
        root = tmp_path_factory.mktemp(model_type)
        model.save_pretrained(root)
        tiny_tokenizer.save_pretrained(root)
        family = load_family(MemberSpec(path=str(root)), {}, dtype=torch.float32)
        specs = []
        size = model.config.hidden_size // 8 if model_type == "qwen2" else 8
        with torch.no_grad():
            for index, layer in enumerate(model.model.layers):
                for group in groups:  # another one in each layer, with its two query heads
                    at = (group + index) % 4
                    layer.self_attn.o_proj.weight[:, at * 2 * size : (at + 1) * 2 * size] = 0
                layer.mlp.down_proj.weight[:, index : index + neurons + index] = 0
                tensors = {OUT: layer.self_attn.o_proj.weight, DOWN: layer.mlp.down_proj.weight}
                spec = LayerSpec.of(f"base:{index}")
                specs.append(spec.with_repair(fitted=family.fitted.add(tensors)))
        del model.model.layers[1]
        return family, model, Tailoring((specs[0], specs[2]))

    return make


def logits(model: Any) -> Tensor:
    tokens = torch.randint(320, (2, 9), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found: Tensor = model(tokens, use_cache=False).logits
    return found


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3"])
def test_a_narrow_checkpoint_has_fewer_heads_and_the_logits_of_the_wide_model(
    model_type: str, idle: Any, tmp_path: Path
) -> None:
    family, model, tailoring = idle(model_type, (0, 1), 10)
    export_checkpoint(family, tailoring, tmp_path / "out")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    sizes = (stock.config.num_attention_heads, stock.config.num_key_value_heads)
    assert (*sizes, stock.config.intermediate_size) == (4, 2, 38)
    torch.testing.assert_close(logits(stock), logits(model), atol=1e-5, rtol=1e-5)
    n_parameters = sum(parameter.numel() for parameter in stock.parameters())
    facts = card_facts(family, tailoring, "out")
    assert facts.parameters == (family.parameters, n_parameters)
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "4 of 8 attention heads and 38 of 48 FFN neurons" in text


def test_a_gguf_file_is_as_narrow(idle: Any, tmp_path: Path) -> None:
    own = {"attention_bias": False, "mlp_bias": False}
    family, model, tailoring = idle("llama", (0, 1), 16, **own)
    export_gguf(family, tailoring, tmp_path / "m.gguf", dtype="f32")
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    assert (read.config.num_key_value_heads, read.config.intermediate_size) == (2, 32)
    torch.testing.assert_close(logits(read), logits(model), atol=1e-4, rtol=1e-4)


def test_a_llama_keeps_heads_whose_number_divides_its_hidden_size(idle: Any) -> None:
    family, _, tailoring = idle("llama", (2,), 0)  # 3 kv-groups are in use: 6 heads for 32
    assert narrowing(family, tailoring) is None
    sizes = GatedLayer.of(family.config, family.layer(tailoring.layers[0].sources[0]))
    assert head_counts(family.config, sizes) == (1, 2, 4)


@pytest.mark.parametrize("model_type", ["phi3", "gpt_neox", "olmo2"])
def test_other_layers_are_refused_with_the_tensor_that_prevents_it(
    model_type: str, tiny_model: Any
) -> None:
    model = tiny_model(model_type, num_hidden_layers=1)
    name = "gpt_neox" if model_type == "gpt_neox" else "model"
    path = f"{name}.layers.0."
    state = {n.removeprefix(path): t for n, t in model.state_dict().items() if n.startswith(path)}
    wanted = "q_norm" if model_type == "olmo2" else "q_proj"
    with pytest.raises(FamilyError, match=f"can't be taken out of its layers .*{wanted}"):
        GatedLayer.of(model.config, state)


def test_a_model_that_makes_heads_of_its_hidden_size_keeps_them_all(idle: Any) -> None:
    family, _, tailoring = idle("stablelm", (), 4)
    sizes = GatedLayer.of(family.config, family.layer(tailoring.layers[0].sources[0]))
    assert head_counts(family.config, sizes) == (4,)
