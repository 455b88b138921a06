"""GGUF files without llama.cpp: read back by other readers, refusals, and what may be replaced."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader, GGUFValueType, GGUFWriter
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ExportError, TailoringError
from gptailor.export import export_checkpoint, export_gguf
from gptailor.family import Family, MemberSpec, load_family

MERGED = LayerSpec.of("math:2", "code:2", merge="task_arithmetic", scale=0.6)


def cut(*kept: int) -> Tailoring:
    """Some of the base's layers; the second of those kept is merged where it can be."""
    return Tailoring(tuple(MERGED if p == 2 else LayerSpec.of(f"base:{p}") for p in kept))


def logits_of(model: PreTrainedModel) -> torch.Tensor:
    tokens = torch.arange(3, 35).repeat(2, 1)
    with torch.no_grad():
        return model(input_ids=tokens).logits


def keys_of(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in GGUFReader(path).fields.items()}


@pytest.fixture
def family(runnable: Callable[..., Family]) -> Family:
    return runnable("llama")


# -- what is in the file


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "phi3"])
def test_transformers_reads_the_file_as_the_exported_checkpoint(
    model_type: str, runnable: Callable[..., Family], tmp_path: Path
) -> None:
    fields = {"head_dim": 128} if model_type == "qwen3" else {}  # it reads no other
    family, tailoring = runnable(model_type, **fields), cut(0, 2, 3, 5)
    export_checkpoint(family, tailoring, tmp_path / "hf")
    export_gguf(family, tailoring, tmp_path / "m.gguf", dtype="f32")
    stock = AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    read = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="m.gguf", dtype=torch.float32, attn_implementation="eager"
    )
    torch.testing.assert_close(logits_of(read), logits_of(stock), atol=1e-4, rtol=1e-4)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file="m.gguf")
    for text in ("The capital of France", "print(1 + 1)\n\n  x", "déjà vu 中文"):
        assert tokenizer.encode(text) == family.tokenizer.encode(text)


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("dtype", "kind", "limit"),
    [
        ("f32", GGMLQuantizationType.F32, 0.0),
        ("f16", GGMLQuantizationType.F16, 2.0**-11),
        ("bf16", GGMLQuantizationType.BF16, 2.0**-8),
    ],
)
def test_matrices_are_stored_in_the_type_asked_for(
    dtype: str, kind: GGMLQuantizationType, limit: float, family: Family, tmp_path: Path
) -> None:
    export_gguf(family, cut(1, 4), tmp_path / "m.gguf", dtype=dtype)
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    wanted = family.outer_part("embedding", "base")["model.embed_tokens.weight"].numpy()
    found = tensors["token_embd.weight"]
    assert found.tensor_type == kind
    from gguf.quants import dequantize

    values = dequantize(found.data, kind)
    assert np.abs(values - wanted).max() <= limit * np.abs(wanted).max()
    assert tensors["blk.1.attn_norm.weight"].tensor_type == GGMLQuantizationType.F32
    assert len([name for name in tensors if name.startswith("blk.1.")]) == 9
    assert not any(name.startswith("blk.2.") for name in tensors)


def test_q8_0_takes_a_byte_a_weight_and_errs_by_less_than_a_step(
    family: Family, tmp_path: Path
) -> None:
    from gguf.quants import dequantize

    export_gguf(family, cut(1, 4), tmp_path / "m.gguf", dtype="q8_0")
    tensors = {tensor.name: tensor for tensor in GGUFReader(tmp_path / "m.gguf").tensors}
    up, down = tensors["blk.0.ffn_up.weight"], tensors["blk.0.ffn_down.weight"]
    assert up.tensor_type == GGMLQuantizationType.Q8_0
    assert up.n_bytes == 48 * 34  # a row is one block: 32 bytes and a scale
    assert down.tensor_type == GGMLQuantizationType.F16  # 48 is no multiple of 32
    wanted = family.layer(LayerSpec.of("base:1").sources[0])["mlp.up_proj.weight"].numpy()
    step = np.abs(wanted).max(axis=1, keepdims=True) / 127
    error = np.abs(dequantize(up.data, GGMLQuantizationType.Q8_0) - wanted)
    assert (error <= step * 0.56).all()
    assert error.max() > 0


def test_the_template_and_the_special_tokens_are_carried(family: Family, tmp_path: Path) -> None:
    export_gguf(family, cut(0, 3), tmp_path / "small.gguf")
    keys = keys_of(tmp_path / "small.gguf")
    assert keys["tokenizer.chat_template"] == family.tokenizer.chat_template
    assert keys["tokenizer.ggml.bos_token_id"] == 0
    assert keys["tokenizer.ggml.eos_token_id"] == 1
    assert keys["tokenizer.ggml.padding_token_id"] == 2
    assert keys["tokenizer.ggml.add_bos_token"] is False
    assert keys["tokenizer.ggml.tokens"][:3] == ["<s>", "</s>", "<pad>"]
    assert keys["tokenizer.ggml.token_type"][:4] == [3, 3, 3, 1]  # control, then normal
    assert keys["general.name"] == "small"
    assert keys["llama.block_count"] == 2
    assert Tailoring.from_yaml(keys["gptailor.core.tailoring"]) == cut(0, 3)


def test_a_cut_moves_each_window_with_its_layer(
    runnable: Callable[..., Family], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family = runnable("gemma3_text")  # sliding, sliding, full, twice
    export_gguf(family, cut(0, 2, 5, 3), tmp_path / "m.gguf")
    keys = keys_of(tmp_path / "m.gguf")
    assert keys["gemma3.attention.sliding_window"] == 4
    assert keys["gemma3.attention.sliding_window_pattern"] == [True, False, False, True]
    assert keys["gemma3.rope.freq_base_swa"] == 10_000
    assert keys["gemma3.rope.freq_base"] == 1_000_000
    assert "Ollama's own engine takes every sixth layer" in caplog.text


def test_keys_have_the_types_that_ollama_asks_for(family: Family, tmp_path: Path) -> None:
    """Its reader takes a key of another type for a missing one."""
    export_gguf(family, cut(0, 2), tmp_path / "m.gguf")
    fields = GGUFReader(tmp_path / "m.gguf").fields
    sizes = ("block_count", "context_length", "embedding_length", "feed_forward_length",
             "attention.head_count", "attention.head_count_kv", "attention.key_length",
             "attention.value_length")  # fmt: skip
    wanted = {
        "general.architecture": [GGUFValueType.STRING],
        "general.file_type": [GGUFValueType.UINT32],
        **{f"llama.{name}": [GGUFValueType.UINT32] for name in sizes},
        "llama.rope.freq_base": [GGUFValueType.FLOAT32],
        "llama.attention.layer_norm_rms_epsilon": [GGUFValueType.FLOAT32],
        "tokenizer.chat_template": [GGUFValueType.STRING],
        "tokenizer.ggml.model": [GGUFValueType.STRING],
        "tokenizer.ggml.tokens": [GGUFValueType.ARRAY, GGUFValueType.STRING],
        "tokenizer.ggml.merges": [GGUFValueType.ARRAY, GGUFValueType.STRING],
        "tokenizer.ggml.token_type": [GGUFValueType.ARRAY, GGUFValueType.INT32],
        "tokenizer.ggml.bos_token_id": [GGUFValueType.UINT32],
        "tokenizer.ggml.eos_token_id": [GGUFValueType.UINT32],
    }
    assert {name: fields[name].types for name in wanted} == wanted


def test_two_exports_are_equal_to_the_byte(family: Family, tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        export_gguf(family, cut(0, 2), tmp_path / name / "m.gguf", dtype="q8_0")
    assert (tmp_path / "one/m.gguf").read_bytes() == (tmp_path / "two/m.gguf").read_bytes()


@pytest.mark.slow
def test_a_window_where_llama_cpp_has_none_limits_the_context(
    runnable: Callable[..., Family], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    family = runnable("mistral", sliding_window=2048, max_position_embeddings=4096)
    export_gguf(family, cut(0, 2), tmp_path / "m.gguf")
    assert keys_of(tmp_path / "m.gguf")["llama.context_length"] == 2048
    assert "mistral without sliding windows" in caplog.text


# -- what is refused, before anything is written


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model_type", "fields", "kept", "told"),
    [
        ("glm4", {}, (0, 1), "does not know model type 'glm4', only cohere, falcon"),
        ("opt", {}, (0, 1), "convert_hf_to_gguf.py on the checkpoint"),
        ("mistral", {"sliding_window": 4}, (0, 1), "see only 4 tokens back"),
        ("qwen3", {"layer_types": ["sliding_attention"] * 6, "use_sliding_window": True,
                   "sliding_window": 4}, (0, 1), "without sliding windows"),
        ("smollm3", {}, (0, 1, 3), "every fourth layer, and layer 2"),
        ("llama", {"hidden_act": "gelu"}, (0, 1), "hidden_act silu or swish"),
        ("qwen3", {"attention_bias": True}, (0, 1), "no place for model.layers.0.self_attn.o_proj"),
        ("qwen3_moe", {"mlp_only_layers": [1]}, (0, 1), "no place for model.layers.1.mlp.gate"),
        ("qwen3_moe", {"norm_topk_prob": False}, (0, 1), "norm_topk_prob True"),
        ("gemma", {"tie_word_embeddings": False}, (0, 1), "no place for lm_head"),
        ("gpt_neox", {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}},
         (0, 1), "type 'linear' can't be written for gpt_neox"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
         (0, 1), "type 'dynamic' can't be written for llama"),
        ("llama", {"rope_parameters": {
            "rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4, "attention_factor": 1.5,
            "original_max_position_embeddings": 128}}, (0, 1), "'yarn' with attention_factor"),
        ("stablelm", {"qk_layernorm": True}, (0, 1), "qk_layernorm False"),
        ("falcon", {"parallel_attn": False}, (0, 1), "parallel_attn True"),
        ("olmoe", {"num_key_value_heads": 2}, (0, 1), "as many key heads as query heads"),
    ],
)  # fmt: skip
def test_what_llama_cpp_can_not_run_is_refused(
    model_type: str,
    fields: dict[str, Any],
    kept: tuple[int, ...],
    told: str,
    runnable: Callable[..., Family],
    tmp_path: Path,
) -> None:
    out = tmp_path / "new folder" / "m.gguf"
    with pytest.raises(ExportError) as error:
        export_gguf(runnable(model_type, **fields), cut(*kept), out)
    (sentence,) = error.value.problems
    assert sentence.startswith("--format gguf: ")
    assert told in sentence
    assert "\n" not in sentence
    assert list(tmp_path.iterdir()) == []


def test_values_that_float16_can_not_hold_are_refused(
    pico_family: Any, tiny_tokenizer: Any, tiny_model: Callable[..., Any], tmp_path: Path
) -> None:
    model = tiny_model("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = 70_000.0
    model.save_pretrained(tmp_path / "base")
    tiny_tokenizer.save_pretrained(tmp_path / "base")
    family = load_family(MemberSpec(path=str(tmp_path / "base")), {}, dtype=torch.float32)
    tailoring = Tailoring((LayerSpec.of("base:0"), LayerSpec.of("base:1")))
    with pytest.raises(ExportError, match=r"blk.1.ffn_up.weight holds .* not finite in f16; use b"):
        export_gguf(family, tailoring, tmp_path / "m.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["base"]
    export_gguf(family, tailoring, tmp_path / "m.gguf", dtype="bf16")
    with pytest.raises(TailoringError):
        export_gguf(family, Tailoring((LayerSpec.of("base:9"),)), tmp_path / "n.gguf")
    with pytest.raises(ExportError, match="one of f16, bf16, q8_0, f32"):
        export_gguf(family, tailoring, tmp_path / "n.gguf", dtype="q4_0")


# -- the file appears whole or not at all


def test_a_file_of_ours_is_replaced_and_another_only_when_allowed(
    family: Family, tmp_path: Path
) -> None:
    file = tmp_path / "m.gguf"
    export_gguf(family, cut(0, 2), file)
    export_gguf(family, cut(0, 2, 3), file)
    assert keys_of(file)["llama.block_count"] == 3
    for foreign in (b"GGUF" + bytes(8000), b"", b"my diary"):
        file.write_bytes(foreign)
        with pytest.raises(ExportError, match="no export of gptailor wrote it"):
            export_gguf(family, cut(0, 2), file)
        assert file.read_bytes() == foreign
    export_gguf(family, cut(0, 2), file, overwrite=True)
    assert keys_of(file)["llama.block_count"] == 2
    assert list(tmp_path.iterdir()) == [file]


def test_a_member_and_a_file_of_the_run_are_never_replaced(family: Family, tmp_path: Path) -> None:
    file = tmp_path / "run" / "m.gguf"
    export_gguf(family, cut(0, 2), file)
    before = file.read_bytes()
    for kept in (file, file.parent):
        with pytest.raises(ExportError, match="a file that this export is made from"):
            export_gguf(family, cut(0, 3), file, overwrite=True, keep=[kept])
    member = load_family(MemberSpec(path=str(file)), {}, dtype=torch.float32)
    with pytest.raises(ExportError, match="a file that this export is made from"):
        export_gguf(member, Tailoring((LayerSpec.of("base:0"),)), file, overwrite=True)
    assert file.read_bytes() == before
    with pytest.raises(ExportError, match="is a folder"):
        export_gguf(family, cut(0, 2), tmp_path / "run", overwrite=True)


def test_a_full_disk_is_told_and_leaves_nothing(
    family: Family, tmp_path: Path, files_of_at_most: Callable[..., Any]
) -> None:
    file = tmp_path / "new" / "m.gguf"
    refused = pytest.raises(ExportError, match=r"m.gguf: can't be written: .*; free the space")
    with files_of_at_most(40_000), refused:
        export_gguf(family, cut(0, 2, 3, 4), file)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.sampled(2)
@pytest.mark.parametrize("dtype", ["f16", "q8_0"])
def test_a_file_that_reads_back_different_never_appears(
    dtype: str, family: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = GGUFWriter.write_tensor_data

    def write_wrongly(writer: GGUFWriter, tensor: np.ndarray) -> None:
        if next(iter(writer.tensors[0])) == "blk.1.ffn_up.weight":
            tensor = tensor[::-1].copy()  # the same values, in other rows
        write(writer, tensor)

    monkeypatch.setattr(GGUFWriter, "write_tensor_data", write_wrongly)
    with pytest.raises(ExportError, match=r"has another blk.1.ffn_up.weight than was made"):
        export_gguf(family, cut(0, 2), tmp_path / "m.gguf", dtype=dtype)
    assert list(tmp_path.iterdir()) == []
