"""Adapters merged into weights, judged by peft's own forward and by arithmetic."""

import copy
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from gptailor.core.tailoring import Source
from gptailor.errors import FamilyError
from gptailor.family import Family, MemberSpec, load_family

# peft asks transformers for something by its old name when an adapter is made
pytestmark = [
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Setting .save_embedding_layers. to:UserWarning"),
]
UP = "mlp.up_proj.weight"


def _randomise(model: torch.nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


def _trained(base: Path, config: peft.PeftConfig, *, seed: int = 0) -> Any:
    """A peft model on a base, its adapter drawn at random."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wrapped = peft.get_peft_model(model, copy.deepcopy(config))
    _randomise(wrapped, seed)
    return wrapped.eval()


def _load(base: Path, *, dtype: torch.dtype = torch.float32, **variants: MemberSpec) -> Family:
    return load_family(MemberSpec(path=str(base)), variants, dtype=dtype)


def _logits(model: Any) -> torch.Tensor:
    tokens = torch.randint(3, 300, (2, 11), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return model(input_ids=tokens, use_cache=False).logits


def _rebuilt(family: Family, member: str) -> PreTrainedModel:
    model = family.skeleton()
    model.load_state_dict(dict(family.states[member]), strict=False, assign=True)
    model.tie_weights()
    return model


LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CONFIGS = {
    "lora": peft.LoraConfig(r=4, lora_alpha=8, target_modules=LINEAR),
    "lora of a rank each": peft.LoraConfig(
        r=4, target_modules=["q_proj", "up_proj"], rank_pattern={"up_proj": 2}, use_rslora=True
    ),
    "dora": peft.LoraConfig(r=4, target_modules=["q_proj", "down_proj"], use_dora=True),
    "lora with biases": peft.LoraConfig(r=4, target_modules=["q_proj"], bias="all"),
    "lora and a head": peft.LoraConfig(
        r=4, target_modules=["q_proj"], modules_to_save=["lm_head"], task_type="CAUSAL_LM"
    ),
    "lora on embeddings": peft.LoraConfig(r=4, target_modules=["embed_tokens", "q_proj"]),
    "pissa": peft.LoraConfig(r=4, target_modules=["q_proj"], init_lora_weights="pissa"),
    "loha": peft.LoHaConfig(r=4, target_modules=["q_proj", "up_proj"]),
    "lokr": peft.LoKrConfig(r=4, target_modules=["q_proj", "up_proj"]),
    "ia3": peft.IA3Config(
        target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]
    ),
    "vera": peft.VeraConfig(r=4, target_modules=["q_proj"], d_initial=0.1),
    "oft": peft.OFTConfig(r=0, oft_block_size=8, target_modules=["q_proj"]),
}
_TWO = ["q_proj", "up_proj"]
OTHERS = {  # every other type that peft merges, in its own way of being small
    "ADALORA": {"total_step": 10, "target_r": 2, "init_r": 4},
    "ADAMSS": {},
    "BOFT": {"boft_block_size": 4},
    "C3A": {"block_size": 8},
    "DEFT": {},
    "DELORA": {},
    "FOURIERFT": {"n_frequency": 20},
    "FROD": {},
    "GLORA": {},
    "GRALORA": {"r": 4, "gralora_k": 2},
    "HIRA": {"r": 4},
    "HRA": {"r": 4},
    "LN_TUNING": {"target_modules": ["input_layernorm", "norm"]},
    "MISS": {"r": 4},
    "OSF": {},
    "PEANUT": {},
    "PSOFT": {"r": 4},
    "PVERA": {"r": 4},
    "RANDLORA": {"r": 4},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 2},
    "SUPERTUNING": {},
    "TINYLORA": {},
    "TRAINABLE_TOKENS": {"target_modules": ["embed_tokens"], "token_indices": list(range(300))},
    "UNILORA": {},
    "VBLORA": {"vector_length": 16, "num_vectors": 8, "topk": 2, "r": 4},
    "WAVEFT": {"n_frequency": 20},
}


@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=[] if k in ("lora", "ia3") else pytest.mark.slow) for k in CONFIGS],
)
def test_a_merged_adapter_is_what_peft_computes(low_family: Any, tmp_path: Path, kind: str) -> None:
    wrapped = _trained(low_family.base, CONFIGS[kind])
    wrapped.save_pretrained(tmp_path / "adapter")
    family = _load(low_family.base, it=MemberSpec(path=str(tmp_path / "adapter")))
    alone = _load(low_family.base)
    assert family.digests["base"] == alone.digests["base"]  # the base is left as it is
    assert family.digests["it"] != family.digests["base"]
    torch.testing.assert_close(_logits(_rebuilt(family, "it")), _logits(wrapped), rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def small(
    tiny_model: Callable[..., PreTrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A base of one layer."""
    folder = tmp_path_factory.mktemp("small")
    tiny_model("llama", num_hidden_layers=1).save_pretrained(folder)
    return folder


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Unsupported layer type:UserWarning")
@pytest.mark.filterwarnings("ignore:Failed to load the CUDA extension:UserWarning")
@pytest.mark.filterwarnings("ignore:Setting boft_n_butterfly_factor:UserWarning")
@pytest.mark.parametrize("kind", OTHERS)
def test_every_type_that_peft_merges_is_merged(small: Path, tmp_path: Path, kind: str) -> None:
    config = PEFT_TYPE_TO_CONFIG_MAPPING[kind](**{"target_modules": _TWO, **OTHERS[kind]})
    model = AutoModelForCausalLM.from_pretrained(small, dtype=torch.float32)
    before, generator = _logits(model), torch.Generator().manual_seed(0)
    wrapped = peft.get_peft_model(model, config).eval()
    with torch.no_grad():
        for parameter in wrapped.parameters():
            if parameter.requires_grad:
                parameter += torch.randn(parameter.shape, generator=generator) * 0.1
    wrapped.save_pretrained(tmp_path)
    family = _load(small, it=MemberSpec(path=str(tmp_path)))
    expected = _logits(wrapped)
    assert not torch.allclose(expected, before, rtol=0, atol=1e-3)
    torch.testing.assert_close(_logits(_rebuilt(family, "it")), expected, rtol=0, atol=2e-4)


def test_beft_is_merged_where_the_base_has_a_bias(
    tiny_model: Callable[..., PreTrainedModel], small: Path, tmp_path: Path
) -> None:
    base = tmp_path / "base"
    tiny_model("llama", num_hidden_layers=1, attention_bias=True).save_pretrained(base)
    _trained(base, peft.BeftConfig(target_modules=["v_proj"])).save_pretrained(tmp_path / "it")
    family = _load(base, it=MemberSpec(path=str(tmp_path / "it")))
    changed = [k for k, v in family.states["it"].items() if v is not family.states["base"][k]]
    assert changed == ["model.layers.0.self_attn.v_proj.bias"]
    assert "Base layer has no bias" in _faults(small, tmp_path / "it")


def test_the_types_that_are_merged_are_the_ones_tested() -> None:
    from gptailor.family.adapter import _MERGED

    tested = {str(config.peft_type.value) for config in CONFIGS.values()} | OTHERS.keys()
    assert tested | {"BEFT"} == _MERGED  # BEFT needs a base with biases


@pytest.mark.sampled(5)
@pytest.mark.parametrize("strength", [-2.0, 0.0, 0.3, 1.0, 1.7])
def test_a_lora_at_a_strength_is_the_product_of_its_factors(
    small: Path, tmp_path: Path, strength: float
) -> None:
    """``base + strength * alpha / sqrt(r) * B @ A``, from the adapter's own file."""
    config = peft.LoraConfig(r=4, lora_alpha=6, use_rslora=True, target_modules=["up_proj"])
    _trained(small, config).save_pretrained(tmp_path)
    family = _load(small, it=MemberSpec(path=str(tmp_path), strength=strength))
    factors = load_file(tmp_path / "adapter_model.safetensors")
    place = "base_model.model.model.layers.0.mlp.up_proj.lora_{}.weight"
    delta = 6 / 4**0.5 * (factors[place.format("B")] @ factors[place.format("A")])
    base = family.layer(Source("base", 0))[UP]
    torch.testing.assert_close(family.layer(Source("it", 0))[UP], base + strength * delta)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("kind", ["dora", "oft", "ia3", "lora and a head"])
def test_strengths_lie_on_the_line_through_base_and_variant(
    small: Path, tmp_path: Path, kind: str
) -> None:
    """One adapter at several strengths is a pool of variants, whatever its type."""
    _trained(small, CONFIGS[kind]).save_pretrained(tmp_path)
    strengths = {"whole": 1.0, "half": 0.5, "more": 1.5, "less": -1.0}
    sources = {k: MemberSpec(path=str(tmp_path), strength=v) for k, v in strengths.items()}
    family = _load(small, **sources)
    for name, base in family.states["base"].items():
        whole = family.states["whole"][name]
        for member, strength in strengths.items():
            if strength != 1.0:
                expected = base + strength * (whole - base)
                assert torch.equal(family.states[member][name], expected)


def test_a_lora_on_experts_is_merged(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    model = tiny_model(
        "qwen3_moe", num_hidden_layers=1, num_experts=4, num_experts_per_tok=2, head_dim=8
    )
    model.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        r=2, target_modules=["q_proj"], target_parameters=["mlp.experts.gate_up_proj"]
    )
    wrapped = _trained(tmp_path / "base", config)
    wrapped.save_pretrained(tmp_path / "adapter")
    family = _load(tmp_path / "base", it=MemberSpec(path=str(tmp_path / "adapter")))
    torch.testing.assert_close(_logits(_rebuilt(family, "it")), _logits(wrapped), rtol=0, atol=2e-4)


@pytest.fixture(scope="module")
def whole_adapter(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A LoRA adapter of the small base."""
    folder = tmp_path_factory.mktemp("adapter")
    _trained(small, CONFIGS["lora"]).save_pretrained(folder)
    return folder


@pytest.fixture
def adapter(whole_adapter: Path, tmp_path: Path) -> Path:
    """A copy of it that a test may break."""
    return shutil.copytree(whole_adapter, tmp_path / "adapter")


def test_strength_scales_what_the_adapter_changes(small: Path, adapter: Path) -> None:
    path = str(adapter)
    variants = {
        "full": MemberSpec(path=path),
        "half": MemberSpec(path=path, strength=0.5),
        "none": MemberSpec(path=path, strength=0.0),
        "back": MemberSpec(path=path, strength=-1.0),
    }
    family = _load(small, **variants)
    base, full, half, none, back = (
        family.layer(Source(member, 0))[UP] for member in ("base", *variants)
    )
    torch.testing.assert_close(half - base, 0.5 * (full - base))
    torch.testing.assert_close(back - base, base - full)
    assert none.data_ptr() == base.data_ptr()
    assert "times 0.5" in family.paths["half"]


def test_an_adapter_is_merged_in_float32_and_cast_once(small: Path, adapter: Path) -> None:
    wide = _load(small, it=MemberSpec(path=str(adapter)))
    narrow = _load(small, dtype=torch.bfloat16, it=MemberSpec(path=str(adapter)))
    for name, tensor in wide.layer(Source("it", 0)).items():
        assert torch.equal(narrow.layer(Source("it", 0))[name], tensor.to(torch.bfloat16))


@pytest.mark.slow
def test_only_touched_tensors_take_memory(pico_family: Any, tmp_path: Path) -> None:
    config = peft.LoraConfig(r=2, target_modules=["q_proj"], layers_to_transform=[1])
    _trained(pico_family.base, config).save_pretrained(tmp_path)
    family = _load(pico_family.base, it=MemberSpec(path=str(tmp_path)))
    assert family.nbytes == 4 * (family.parameters + 32 * 32)


@pytest.mark.slow
def test_an_adapter_may_name_a_base_of_its_own(low_family: Any, tmp_path: Path) -> None:
    wrapped = _trained(low_family.variants["math"], CONFIGS["lora"])
    wrapped.save_pretrained(tmp_path)
    source = MemberSpec(path=str(tmp_path), base=str(low_family.variants["math"]))
    family = _load(low_family.base, it=source)
    torch.testing.assert_close(_logits(_rebuilt(family, "it")), _logits(wrapped), rtol=0, atol=2e-4)


def test_an_adapter_works_on_tied_embeddings(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path
) -> None:
    tiny_model("llama", num_hidden_layers=1, tie_word_embeddings=True).save_pretrained(
        tmp_path / "base"
    )
    wrapped = _trained(tmp_path / "base", CONFIGS["lora"])
    wrapped.save_pretrained(tmp_path / "adapter")
    family = _load(tmp_path / "base", it=MemberSpec(path=str(tmp_path / "adapter")))
    assert family.tied
    torch.testing.assert_close(_logits(_rebuilt(family, "it")), _logits(wrapped), rtol=0, atol=2e-4)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("target", ["embed_tokens", "lm_head"])
def test_one_side_of_a_tied_embedding_can_not_be_changed(
    tiny_model: Callable[..., PreTrainedModel], tmp_path: Path, target: str
) -> None:
    base = tmp_path / "base"
    tiny_model("llama", num_hidden_layers=1, tie_word_embeddings=True).save_pretrained(base)
    config = peft.LoraConfig(r=4, target_modules=[target])
    with pytest.warns(UserWarning, match="tie_word_embeddings|tied"):  # peft says so, too
        _trained(base, config).save_pretrained(tmp_path / "adapter")
    told = _faults(base, tmp_path / "adapter")
    assert "computes something else than it does as an adapter" in told
    assert "uses its embedding as the head" in told


@pytest.mark.sampled(4)
@pytest.mark.parametrize("with_tokenizer", [True, False])
@pytest.mark.parametrize("tied", [False, True])
def test_an_adapter_with_tokens_of_its_own(
    tiny_model: Callable[..., PreTrainedModel],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    tied: bool,
    with_tokenizer: bool,
) -> None:
    """Trained after ``resize_token_embeddings``: the rows of the base's tokens are used."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    tiny_model("llama", num_hidden_layers=1, tie_word_embeddings=tied).save_pretrained(base)
    tiny_tokenizer.save_pretrained(base)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model.resize_token_embeddings(323, mean_resizing=False)
    saved = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    config = peft.LoraConfig(
        r=4,
        target_modules=["q_proj"],
        modules_to_save=saved,
        ensure_weight_tying=tied,
    )
    wrapped = peft.get_peft_model(model, config).eval()
    _randomise(wrapped, 3)
    wrapped.save_pretrained(adapter)
    if with_tokenizer:
        more = copy.deepcopy(tiny_tokenizer)
        more.add_tokens(["<user>", "<bot>", "[PAD]"])
        more.save_pretrained(adapter)
    family = _load(base, it=MemberSpec(path=str(adapter)))
    assert len(family.states["it"]["model.embed_tokens.weight"]) == 320
    found, expected = _logits(_rebuilt(family, "it")), _logits(wrapped)[..., :320]
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-4)
    told = (
        "'<user>', '<bot>', '[PAD]', which the base lacks" if with_tokenizer else "the last 3 are"
    )
    assert any(told in note for note in family.notes)


@pytest.mark.slow
def test_an_embedding_that_is_saved_beside_leaves_the_base_alone(
    small: Path, tmp_path: Path
) -> None:
    wrapped = _trained(small, peft.LoraConfig(r=4, target_modules=["q_proj"]))
    wrapped.get_base_model().model.embed_tokens.weight.data.mul_(2)
    wrapped.save_pretrained(tmp_path, save_embedding_layers=True)
    family = _load(small, it=MemberSpec(path=str(tmp_path)))
    name = "model.embed_tokens.weight"
    ours, theirs = family.states["base"][name], family.states["it"][name]
    assert torch.equal(theirs, 2 * ours)
    assert torch.equal(ours, _load(small).states["base"][name])


@pytest.mark.slow
def test_an_adapter_of_a_smaller_vocabulary(
    tiny_model: Callable[..., PreTrainedModel], small: Path, tmp_path: Path
) -> None:
    tiny_model("llama", num_hidden_layers=1, vocab_size=300).save_pretrained(tmp_path / "base")
    _trained(tmp_path / "base", CONFIGS["lora and a head"]).save_pretrained(tmp_path / "adapter")
    told = _faults(small, tmp_path / "adapter")
    assert "lm_head.weight is for a vocabulary of 300 rows but" in told


def _faults(base: Path, adapter: Path, **fields: Any) -> str:
    with pytest.raises(FamilyError) as caught:
        _load(base, it=MemberSpec(path=str(adapter), **fields))
    (told,) = caught.value.problems
    assert "'it'" in told
    assert "\n" not in told
    return told


def _edit(adapter: Path, **fields: Any) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


@pytest.mark.sampled(8)
@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"peft_type": "PREFIX_TUNING"}, "'PREFIX_TUNING' can't be merged"),
        ({"peft_type": None}, "None can't be merged"),
        ({"peft_type": ["LORA"]}, "can't be merged"),
        ({"target_modules": ["no_such"]}, "no_such"),
        ({"target_modules": ["q_proj"]}, "have no place in the base"),
        ({"target_modules": 7}, "does not fit"),
        ({"r": 2}, "does not fit"),
        ({"r": 0}, "does not fit"),
        ({"r": "four"}, "does not fit"),
        ({"megatron_config": {"a": 1}}, "megatron_config is not supported"),
        ({"layer_replication": [[0, 3], [2, 6]]}, "layer_replication is not supported"),
        ({"alora_invocation_tokens": [5]}, "act on part of a text only"),
        ({"peft_type": "XLORA"}, "'XLORA' can't be merged"),
        ({"peft_type": "LILY"}, "'LILY' can't be merged"),
        ({"use_dora": True}, "lacks 7 tensors"),
        ({"auto_mapping": {"parent_library": "antigravity"}}, None),
    ],
    ids=str,
)
def test_an_adapter_whose_config_is_at_problem(
    small: Path, adapter: Path, fields: dict[str, Any], words: str | None
) -> None:
    _edit(adapter, **fields)
    if words is None:  # what names code is not looked at
        _load(small, it=MemberSpec(path=str(adapter)))
        return
    assert words in _faults(small, adapter)


def test_an_adapter_config_that_is_not_json(small: Path, adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text("{")
    assert "not valid JSON" in _faults(small, adapter)


def test_an_adapter_whose_weights_are_a_pickle_is_converted_by_one_line(
    small: Path, adapter: Path
) -> None:
    path, pickle = adapter / "adapter_model.safetensors", adapter / "adapter_model.bin"
    weights = load_file(path)
    torch.save(weights, pickle)
    path.unlink()
    told = _faults(small, adapter)
    assert "adapter_model.bin is a pickle, which can run code and is not opened" in told
    interpreter, option, code = shlex.split(told.rpartition(": python")[2].join(["python", ""]))
    assert (interpreter, option) == ("python", "-c")
    exec(compile(code, "the line", "exec"), {})
    assert {k: v.tolist() for k, v in load_file(path).items()} == {
        k: v.tolist() for k, v in weights.items()
    }
    _load(small, it=MemberSpec(path=str(adapter)))


def test_an_adapter_without_weights(small: Path, adapter: Path) -> None:
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors is missing" in _faults(small, adapter)


def test_an_adapter_that_is_truncated(small: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    path.write_bytes(path.read_bytes()[:3000])
    assert "is not a whole safetensors file" in _faults(small, adapter)


def test_an_adapter_that_lacks_a_tensor(small: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    name = next(name for name in weights if "layers.0.mlp.up_proj.lora_B" in name)
    del weights[name]
    save_file(weights, path)
    assert "lacks 1 tensors" in _faults(small, adapter)


def test_an_adapter_with_values_that_are_not_finite(small: Path, adapter: Path) -> None:
    path = adapter / "adapter_model.safetensors"
    weights = load_file(path)
    next(iter(weights.values())).view(-1)[3] = float("nan")
    save_file(weights, path)
    assert "not finite" in _faults(small, adapter)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "fields", [{"hidden_size": 64}, {"num_hidden_layers": 2}, {"intermediate_size": 64}], ids=str
)
def test_an_adapter_for_another_shape(
    tiny_model: Callable[..., PreTrainedModel],
    small: Path,
    tmp_path: Path,
    fields: dict[str, int],
) -> None:
    tiny_model("llama", **({"num_hidden_layers": 1} | fields)).save_pretrained(tmp_path / "other")
    _trained(tmp_path / "other", CONFIGS["lora"]).save_pretrained(tmp_path / "adapter")
    told = _faults(small, tmp_path / "adapter")
    assert "does not fit" in told or "no place in the base" in told


def test_an_adapter_for_another_architecture(
    tiny_model: Callable[..., PreTrainedModel], small: Path, tmp_path: Path
) -> None:
    tiny_model("gpt_neox", num_hidden_layers=1).save_pretrained(tmp_path / "other")
    config = peft.LoraConfig(r=4, target_modules=["query_key_value"])
    _trained(tmp_path / "other", config).save_pretrained(tmp_path / "adapter")
    assert "does not fit" in _faults(small, tmp_path / "adapter")


@pytest.mark.sampled(2)
@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_must_be_finite(adapter: Path, strength: float) -> None:
    with pytest.raises(ValidationError, match="strength"):
        MemberSpec(path=str(adapter), strength=strength)


def test_an_adapter_alone_is_no_base(adapter: Path) -> None:
    with pytest.raises(FamilyError, match="name the model it was trained on"):
        _load(adapter)
