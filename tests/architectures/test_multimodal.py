"""Models of images and text: the language model is tailored, the rest is carried over unchanged.

The truth is the original model, image side and all, in which layers are switched off or given other
weights in place.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    CONFIG_MAPPING,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PreTrainedModel,
)

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.selfcheck import refuse_inexact
from gptailor.errors import FamilyError
from gptailor.evaluation.side_by_side import open_finished
from gptailor.export import export_checkpoint
from gptailor.family import Family, MemberSpec, load_family

pytestmark = pytest.mark.slow

IMAGE = 50  # the token that stands for a piece of an image
_VISION = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
_VISION |= {"intermediate_size": 48, "image_size": 16, "patch_size": 4}
# type: the language model's type, the vision tower's config, the whole's own fields
WHOLE: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "gemma3": ("gemma3_text", _VISION, {"mm_tokens_per_image": 4, "image_token_index": IMAGE}),
    "llama4": (
        "llama4_text",
        _VISION
        | dict.fromkeys(("vision_output_dim", "projector_input_dim", "projector_output_dim"), 32)
        | {"intermediate_size": 128},
        {"image_token_index": IMAGE},
    ),
    "mistral3": (
        "mistral",
        _VISION | {"model_type": "pixtral", "head_dim": 8},
        {"image_token_index": IMAGE, "spatial_merge_size": 2},
    ),
    "llava": (
        "qwen3",
        _VISION | {"model_type": "clip_vision_model", "projection_dim": 32},
        {"image_token_index": IMAGE},
    ),
    "idefics3": ("llama", _VISION, {"image_token_id": IMAGE, "scale_factor": 2}),
}
SEEN = ("gemma3", "llama4", "mistral3")  # of which the tests make inputs with an image
KEPT = (0, 1, 3, 5)
TAILORING = Tailoring(
    (
        LayerSpec.of("math:0"),
        LayerSpec.of("base:1"),
        LayerSpec.of("math:3", "code:3", merge="task_arithmetic", scale=0.6),
        LayerSpec.of("code:5"),
    )
)


@pytest.fixture
def made(model_type: str, make_whole: Callable[..., PreTrainedModel]) -> dict[str, PreTrainedModel]:
    return {
        member: make_whole(model_type, seed) for seed, member in enumerate(("base", "math", "code"))
    }


@pytest.fixture
def make_whole(
    tiny_fields: Callable[[str], dict[str, Any]],
    randomise: Callable[[PreTrainedModel, int], PreTrainedModel],
) -> Callable[..., PreTrainedModel]:
    """Factory: a tiny random model with a vision tower."""

    def make(model_type: str, seed: int, *, text: str | None = None) -> PreTrainedModel:
        known, vision, own = WHOLE[model_type]
        inside = {"model_type": text or known, **tiny_fields(text or known)}
        config = CONFIG_MAPPING[model_type](text_config=inside, vision_config=vision, **own)
        with torch.random.fork_rng(devices=[]):
            model = AutoModelForImageTextToText.from_config(config)
        return randomise(model, seed)

    return make


def layers_of(model: PreTrainedModel) -> nn.ModuleList:
    """The decoder layers; the vision tower has two."""
    (found,) = [
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList) and len(module) > 2
    ]
    return found


def made_by_hand(made: dict[str, PreTrainedModel]) -> PreTrainedModel:
    """The base with other weights in some layers; those that are cut hand on what they get."""
    model = copy.deepcopy(made["base"])
    base, math, code = (layers_of(made[member]) for member in ("base", "math", "code"))
    layers = layers_of(model)
    layers[0].load_state_dict(math[0].state_dict())
    layers[5].load_state_dict(code[5].state_dict())
    one, other, third = (donor[3].state_dict() for donor in (math, code, base))
    layers[3].load_state_dict(
        {n: t + 0.6 * ((one[n] - t) + (other[n] - t)) for n, t in third.items()}
    )
    for cut in (2, 4):
        layers[cut].forward = lambda hidden, *_, **__: hidden
    return model


def text_inputs() -> dict[str, Tensor]:
    tokens = torch.randint(3, IMAGE - 5, (2, 19), generator=torch.Generator().manual_seed(7))
    return {"input_ids": tokens}


def image_inputs(model_type: str, seed: int = 0) -> dict[str, Tensor]:
    """Text around one image of 16 x 16, which is four tokens."""
    pixels = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(seed))
    tokens = torch.tensor([[3, 7, IMAGE, IMAGE, IMAGE, IMAGE, 9, 11, 20, 31]])
    inputs = {"input_ids": tokens, "pixel_values": pixels}
    if model_type == "gemma3":
        inputs["token_type_ids"] = (tokens == IMAGE).long()
    if model_type == "mistral3":
        inputs["image_sizes"] = torch.tensor([[16, 16]])
    return inputs


def logits_of(model: PreTrainedModel, inputs: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return model(**inputs, use_cache=False).logits


def reload(folder: Path) -> PreTrainedModel:
    model, told = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=torch.float32, output_loading_info=True
    )
    assert not any(told.values()), told
    return model.eval()


def adapter_on(
    whole: PreTrainedModel, folder: Path, targets: str | list[str], **fields: Any
) -> PreTrainedModel:
    """Put an adapter drawn at random on a whole model, and save it."""
    config = peft.LoraConfig(r=2, target_modules=targets, **fields)
    adapted = peft.get_peft_model(copy.deepcopy(whole), config)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    adapted.save_pretrained(folder)
    return adapted.eval()


@pytest.mark.parametrize("model_type", WHOLE)
def test_a_stock_reload_reads_text_and_images_as_the_model_made_by_hand(
    model_type: str,
    made: dict[str, PreTrainedModel],
    family_around: Callable[..., Family],
    tmp_path: Path,
) -> None:
    for name in ("preprocessor_config.json", "chat_template.json"):
        (tmp_path / "base").mkdir(exist_ok=True)
        (tmp_path / "base" / name).write_text('{"kept": "as it is"}')
    family = family_around(made, tmp_path)
    assert any("stays as the base has it" in note for note in family.notes)
    refuse_inexact(Engine(family))
    export_checkpoint(family, TAILORING, tmp_path / "out")
    stock, truth = reload(tmp_path / "out"), made_by_hand(made)
    assert len(layers_of(stock)) == len(KEPT)
    torch.testing.assert_close(
        logits_of(stock, text_inputs()), logits_of(truth, text_inputs()), rtol=1e-5, atol=1e-5
    )
    if model_type in SEEN:
        inputs = image_inputs(model_type)
        wanted = logits_of(truth, inputs)
        assert (wanted - logits_of(truth, image_inputs(model_type, 1))).abs().max() > 0.1
        torch.testing.assert_close(logits_of(stock, inputs), wanted, rtol=1e-5, atol=1e-5)
    for name, tensor in made["base"].state_dict().items():
        if "vision" in name or "projector" in name or "connector" in name:
            assert torch.equal(stock.state_dict()[name], tensor), name
    for name in ("preprocessor_config.json", "chat_template.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == {"kept": "as it is"}
    card = (tmp_path / "out" / "README.md").read_text()
    assert "AutoModelForImageTextToText.from_pretrained" in card
    assert "pipeline_tag: image-text-to-text" in card
    finished, _ = open_finished(family, tmp_path / "out")
    torch.testing.assert_close(
        logits_of(finished, text_inputs()), logits_of(truth, text_inputs()), rtol=1e-5, atol=1e-5
    )


def test_a_language_model_alone_may_be_a_variant(
    make_whole: Callable[..., PreTrainedModel], family_around: Callable[..., Family], tmp_path: Path
) -> None:
    whole, donor = make_whole("gemma3", 0), make_whole("gemma3", 1)
    alone = AutoModelForCausalLM.from_config(donor.config.text_config)
    alone.model.load_state_dict(donor.model.language_model.state_dict())
    alone.lm_head.load_state_dict(donor.lm_head.state_dict())
    family = family_around({"base": whole, "math": alone}, tmp_path)
    layers = [LayerSpec.of(f"math:{layer}") for layer in range(5)]
    export_checkpoint(family, Tailoring(tuple(layers)), tmp_path / "out")
    stock = reload(tmp_path / "out")
    taken = layers_of(donor)[4].state_dict()
    for name, tensor in layers_of(stock)[4].state_dict().items():
        assert torch.equal(tensor, taken[name])


def test_a_language_model_that_reads_text_otherwise_when_alone_is_refused(
    make_whole: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    make_whole("llava", 0, text="granite").save_pretrained(tmp_path / "base")
    with pytest.raises(FamilyError, match=r"llava model differs .* granite language model by"):
        load_family(MemberSpec(path=str(tmp_path / "base")), {}, dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("model_type", ["gemma3", "llava"])
def test_an_adapter_trained_on_the_whole_model_is_a_variant(
    model_type: str,
    apart: bool,
    make_whole: Callable[..., PreTrainedModel],
    family_around: Callable[..., Family],
    tmp_path: Path,
) -> None:
    whole = make_whole(model_type, 0)
    family_around({"base": whole}, tmp_path)
    targets = r".*language_model.*\.(q_proj|up_proj)"
    initial = "pissa" if apart else True  # peft then writes into the model that it is given
    adapter = adapter_on(whole, tmp_path / "math", targets, init_lora_weights=initial)
    sources = {"math": MemberSpec(path=str(tmp_path / "math"))}
    base = MemberSpec(path=str(tmp_path / "base"))
    family = load_family(base, sources, dtype=torch.float32)
    assert family.multimodal_wrapper is not None
    model = family.skeleton()
    for member, truth in (("math", adapter), ("base", reload(tmp_path / "base"))):
        model.load_state_dict(dict(family.states[member]), strict=False, assign=True)
        model.tie_weights()
        wanted = logits_of(truth, text_inputs())
        torch.testing.assert_close(logits_of(model, text_inputs()), wanted, rtol=1e-4, atol=1e-4)
    kept = reload(tmp_path / "base").state_dict()
    assert all(torch.equal(t, kept[name]) for name, t in family.multimodal_wrapper.state.items())


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
def test_an_adapter_that_changes_the_vision_tower_is_refused(
    make_whole: Callable[..., PreTrainedModel], family_around: Callable[..., Family], tmp_path: Path
) -> None:
    whole = make_whole("gemma3", 0)
    family_around({"base": whole}, tmp_path)
    adapter_on(whole, tmp_path / "math", ["q_proj"])
    sources = {"math": MemberSpec(path=str(tmp_path / "math"))}
    with pytest.raises(FamilyError, match=r"changes 2 tensors outside .*vision.*q_proj.weight"):
        load_family(MemberSpec(path=str(tmp_path / "base")), sources, dtype=torch.float32)
