"""GGUF files of many architectures and quantisations, judged by what they were made from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from gptailor.errors import FamilyError
from gptailor.family import Family, MemberSpec, load_family

# sizes that transformers does not read from a file must be what it takes them to be
_PLAIN = {"layer_types": None, "use_sliding_window": False}
FIELDS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": _PLAIN,
    "qwen3": {**_PLAIN, "head_dim": 128},
    "qwen2_moe": {
        **{"moe_intermediate_size": 1408, "shared_expert_intermediate_size": 5632},
        **{"num_experts": 2, "num_experts_per_tok": 2},
    },
    "qwen3_moe": {
        **{"moe_intermediate_size": 768, "num_experts": 4, "num_experts_per_tok": 2},
        "norm_topk_prob": True,
    },
    "falcon": {"multi_query": True},
    "phi3": {},
    "stablelm": {},
    "gpt2": {"max_position_embeddings": 1024, "tie_word_embeddings": True},
    "starcoder2": {},
    "nemotron": {},
    "gemma2": {"tie_word_embeddings": True, "layer_types": None},
    "gemma3_text": {"tie_word_embeddings": True, "layer_types": None},
}
_FREE_NORMS = {"nemotron", "gemma2", "gemma3_text"}  # files hold their norms plus one


@pytest.fixture
def make(
    tiny_model: Callable[..., PreTrainedModel],
) -> Callable[..., PreTrainedModel]:
    """Factory: a tiny model of two layers."""

    def made(model_type: str, **fields: Any) -> PreTrainedModel:
        return tiny_model(model_type, **{"num_hidden_layers": 2, **FIELDS[model_type], **fields})

    return made


def _load(base: Path, *, dtype: torch.dtype = torch.float32, **variants: Path) -> Family:
    sources = {name: MemberSpec(path=str(path)) for name, path in variants.items()}
    return load_family(MemberSpec(path=str(base)), sources, dtype=dtype)


@pytest.mark.slow
@pytest.mark.parametrize("model_type", FIELDS)
def test_a_file_is_the_model_it_was_made_from(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    model_type: str,
) -> None:
    model = make(model_type)
    path = gguf_file(tmp_path / "x.gguf", model, tiny_tokenizer)
    model.save_pretrained(tmp_path / "folder")
    family = _load(tmp_path / "folder", twin=path)  # configs, rope and tokens are held together
    for name, tensor in family.states["base"].items():
        near = {"rtol": 1e-6, "atol": 1e-6} if model_type in _FREE_NORMS else {"rtol": 0, "atol": 0}
        torch.testing.assert_close(family.states["twin"][name], tensor, **near)
    assert f"{path} is a GGUF file of" in " ".join(family.notes)
    text = "The capital of France is Paris."
    assert _load(path).tokenizer(text)["input_ids"] == tiny_tokenizer(text)["input_ids"]


def _decoded_q4_k(block: bytes) -> list[float]:
    """ggml's dequantize_row_q4_K, one value at a time."""
    d, dmin = np.frombuffer(block[:4], np.float16).astype(np.float32)
    scales, nibbles, values = block[4:16], block[16:], []
    for group in range(8):
        if group < 4:
            scale, low = scales[group] & 63, scales[group + 4] & 63
        else:
            scale = (scales[group + 4] & 15) | ((scales[group - 4] >> 6) << 4)
            low = (scales[group + 4] >> 4) | ((scales[group] >> 6) << 4)
        part = nibbles[32 * (group // 2) : 32 * (group // 2) + 32]
        values += [d * scale * ((q >> 4) if group % 2 else (q & 15)) - dmin * low for q in part]
    return values


def _decoded_q6_k(block: bytes) -> list[float]:
    """ggml's dequantize_row_q6_K, one value at a time."""
    low, high = block[:128], block[128:192]
    scales = np.frombuffer(block[192:208], np.int8)
    d = np.frombuffer(block[208:210], np.float16).astype(np.float32)[0]
    values = []
    for index in range(256):
        half, rest = divmod(index, 128)
        quarter, lane = divmod(rest, 32)
        nibble = low[64 * half + 32 * (quarter % 2) + lane] >> (4 if quarter > 1 else 0) & 15
        bits = high[32 * half + lane] >> (2 * quarter) & 3
        values.append(d * int(scales[index // 16]) * ((nibble | bits << 4) - 32))
    return values


def _decoded(kind: str, stored: np.ndarray) -> np.ndarray:
    """What a tensor's bytes mean: ours by hand where it is written down above, else gguf's."""
    by_hand = {"Q4_K": _decoded_q4_k, "Q6_K": _decoded_q6_k}
    if kind not in by_hand:
        return gguf.quants.dequantize(stored, gguf.GGMLQuantizationType[kind])
    _, n_bytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
    rows = [
        [
            value
            for i in range(0, row.size, n_bytes)
            for value in by_hand[kind](bytes(row[i : i + n_bytes]))
        ]
        for row in stored.reshape(stored.shape[0], -1)
    ]
    return np.array(rows, dtype=np.float32)


def _as_stored(kind: str, weight: np.ndarray) -> np.ndarray:
    """A weight's bytes: quantised where gguf can, else random blocks with small scales."""
    number = gguf.GGMLQuantizationType[kind]
    try:
        return gguf.quants.quantize(weight, number)
    except NotImplementedError:
        block, n_bytes = gguf.GGML_QUANT_SIZES[number]
        rng = np.random.default_rng(0)
        shape = (weight.shape[0], weight.shape[1] // block, n_bytes)
        stored = rng.integers(0, 256, shape, dtype=np.uint8)
        scale = np.frombuffer(np.float16(0.01).tobytes(), np.uint8)
        for start in _SCALES[kind]:
            stored[..., start : start + 2] = scale
        return stored.reshape(weight.shape[0], -1)


# where the float16 scales of a block stand
_SCALES = {
    **{"Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,)},
    **{"IQ4_NL": (0,), "IQ4_XS": (0,), "IQ2_XXS": (0,), "IQ2_XS": (0,), "IQ3_XXS": (0,)},
    **{"IQ3_S": (0,), "IQ2_S": (0,), "IQ1_S": (0,)},
}
BITS = {
    **{"F16": None, "BF16": None, "Q8_0": 8.5, "Q4_0": 4.5, "Q4_1": 5, "Q5_0": 5.5, "Q5_1": 6},
    **{"Q2_K": 2.62, "Q3_K": 3.44, "Q4_K": 4.5, "Q5_K": 5.5, "Q6_K": 6.56, "MXFP4": 4.25},
    **{"IQ4_NL": 4.5, "IQ4_XS": 4.25, "IQ2_XXS": 2.06, "IQ2_XS": 2.31, "IQ3_XXS": 3.06},
    **{"IQ3_S": 3.44, "IQ2_S": 2.56, "IQ1_S": 1.56, "TQ1_0": 1.69, "TQ2_0": 2.06},
}


@pytest.mark.sampled(6)
@pytest.mark.parametrize("kind", BITS)
def test_each_type_is_dequantised_and_named(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    gguf_tensors: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
    kind: str,
) -> None:
    model = make("llama", num_hidden_layers=1, hidden_size=256, tie_word_embeddings=True)
    tensors = gguf_tensors(model)
    name = "blk.0.ffn_up.weight"  # (48, 256); llama.cpp turns no row of it
    stored = _as_stored(kind, tensors[name])
    tensors[name] = stored if stored.dtype == np.uint8 else tensors[name]
    path = gguf_file(
        tmp_path / "x.gguf",
        model,
        None,
        tensors=tensors,
        stored=lambda key, _: kind if key == name else "F32",
        about={"llama.vocab_size": 320},
    )
    expected = torch.from_numpy(np.array(_decoded(kind, stored)))
    family = _load(path)
    found = family.states["base"]["model.layers.0.mlp.up_proj.weight"]
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert family.own_tokenizer is None
    (note,) = family.notes
    bits = (
        "" if BITS[kind] is None else f" ({BITS[kind]} bits a weight); what the quantisation lost"
    )
    assert f"11 tensors, 10 as F32, 1 as {kind}{bits}" in note
    assert note.endswith("read as float32")
    narrow = _load(path, dtype=torch.bfloat16)
    assert narrow.notes[0].endswith("read as float32 and held as bfloat16")
    same = narrow.states["base"]["model.layers.0.mlp.up_proj.weight"]
    assert torch.equal(same, found.to(torch.bfloat16))


@pytest.mark.parametrize("kind", ["Q8_1", "I8", "F64", "Q1_0"])
def test_a_type_that_can_not_be_made_floats_is_named(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    tmp_path: Path,
    kind: str,
) -> None:
    path = gguf_file(tmp_path / "x.gguf", make("llama"), None, about={"llama.vocab_size": 320})
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 2 * 8
    data[at : at + 4] = int(gguf.GGMLQuantizationType[kind]).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(
        FamilyError, match=f"'blk.1.ffn_up.weight' is stored as {kind}, which can't"
    ):
        _load(path)


def test_the_rope_factors_of_llama_3_are_read(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    gguf_tensors: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    rope = {
        **{"rope_type": "llama3", "rope_theta": 500_000.0, "factor": 32.0, "low_freq_factor": 1.0},
        **{"high_freq_factor": 4.0, "original_max_position_embeddings": 8192},
    }
    model = make("llama", head_dim=64, max_position_embeddings=131_072, rope_parameters=rope)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](model.config, "cpu")
    factors = 500_000.0 ** (-torch.arange(32) / 32) / scaled
    tensors = {**gguf_tensors(model), "rope_freqs.weight": factors.numpy().astype(np.float32)}
    about = {"llama.vocab_size": 320}
    path = gguf_file(tmp_path / "x.gguf", model, None, tensors=tensors, about=about)
    model.save_pretrained(tmp_path / "folder")
    family = _load(path, twin=tmp_path / "folder")
    assert family.config.rope_parameters == rope
    tokens = torch.arange(3, 14)[None]
    twin = family.skeleton()
    twin.load_state_dict(dict(family.states["base"]), strict=False, assign=True)
    with torch.no_grad():
        assert torch.equal(twin(tokens).logits, model(tokens).logits)

    tensors["rope_freqs.weight"][3] *= 1.5
    gguf_file(tmp_path / "y.gguf", model, None, tensors=tensors, about=about)
    with pytest.raises(FamilyError, match="not scaled as Llama 3's are"):
        _load(tmp_path / "y.gguf")


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_a_linear_scaling_of_rope_is_read(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    tmp_path: Path,
    model_type: str,
) -> None:
    model = make(model_type)
    parameters = model.config.rope_parameters
    scaled = parameters.get("full_attention", parameters)
    scaled |= {"rope_type": "linear", "factor": 8.0}
    model.save_pretrained(tmp_path / "folder")
    name = "gemma3" if model_type == "gemma3_text" else model_type
    about = {
        f"{name}.rope.scaling.type": "linear",
        f"{name}.rope.scaling.factor": 8.0,
        f"{name}.vocab_size": 320,
    }
    path = gguf_file(tmp_path / "x.gguf", model, None, about=about)
    family = _load(path, twin=tmp_path / "folder")
    assert "linear" in str(family.config.rope_parameters)


def test_caps_and_windows_are_read(
    make: Callable[..., PreTrainedModel], gguf_file: Callable[..., Path], tmp_path: Path
) -> None:
    model = make("gemma2", attn_logit_softcapping=20.0, final_logit_softcapping=10.0)
    about = {
        **{"gemma2.attn_logit_softcapping": 20.0, "gemma2.final_logit_softcapping": 10.0},
        **{"gemma2.attention.sliding_window": 4, "gemma2.vocab_size": 320},
    }
    family = _load(gguf_file(tmp_path / "x.gguf", model, None, about=about))
    said = family.config.to_dict()
    assert (said["attn_logit_softcapping"], said["final_logit_softcapping"]) == (20.0, 10.0)
    assert said["sliding_window"] == 4


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    "case",
    [
        ({"llama.rope.scaling.type": "yarn", "llama.rope.scaling.factor": 4.0}, {}, "yarn, 4.0"),
        ({}, {"rope_factors_long.weight": np.ones(4, np.float32)}, "rope_factors_long"),
        ({}, {"blk.0.attn_q.bias": np.ones(32, np.float32)}, r"1 of its tensors have no place"),
        ({"general.architecture": "clip"}, {}, "architecture is 'clip'.*it reads .*llama"),
        ({"general.architecture": "t5"}, {}, "architecture is 't5'"),
        ({"split.count": 3}, {}, "one of 3 parts"),
    ],
)
def test_what_would_be_passed_over_is_refused(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    gguf_tensors: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
    case: tuple[dict[str, Any], dict[str, np.ndarray], str],
) -> None:
    (about, extra, words), model, path = case, make("llama"), tmp_path / "x.gguf"
    tensors = {**gguf_tensors(model), **extra}
    told = {"llama.vocab_size": 320, **about}
    with pytest.raises(FamilyError, match=words) as caught:
        _load(gguf_file(path, model, None, tensors=tensors, about=told))
    assert str(path) in str(caught.value)


def test_tensors_that_overlap_are_refused(
    make: Callable[..., PreTrainedModel], gguf_file: Callable[..., Path], tmp_path: Path
) -> None:
    path = gguf_file(tmp_path / "x.gguf", make("llama"), None, about={"llama.vocab_size": 320})
    data = bytearray(path.read_bytes())
    at = data.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 2 * 8 + 4
    data[at : at + 8] = (0).to_bytes(8, "little")
    path.write_bytes(data)
    with pytest.raises(
        FamilyError, match=r"'blk\.1\.ffn_up\.weight' and 'token_embd.weight' overlap"
    ):
        _load(path)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is:FutureWarning")
def test_an_adapter_on_a_file_of_its_own_tells_of_both(
    make: Callable[..., PreTrainedModel],
    gguf_file: Callable[..., Path],
    tiny_tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
) -> None:
    import peft

    model = make("llama")
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    path = gguf_file(
        tmp_path / "x.gguf",
        model,
        tiny_tokenizer,
        stored=lambda name, values: "Q8_0" if ".ffn_up" in name else "F32",
    )
    peft.get_peft_model(model, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(
        tmp_path / "adapter"
    )
    source = MemberSpec(path=str(tmp_path / "adapter"), base=str(path))
    family = load_family(
        MemberSpec(path=str(tmp_path / "base")), {"a": source, "b": source}, dtype=torch.float32
    )
    told = [note for note in family.notes if "is a GGUF file" in note]
    assert len(told) == 1
    assert told[0].startswith(f"{path} is")
    assert "2 as Q8_0 (8.5 bits a weight)" in told[0]
