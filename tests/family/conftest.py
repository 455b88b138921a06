"""Tiny GGUF files made on the spot, of any architecture and type of tensor."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.integrations.ggml import GGUF_CONFIG_MAPPING
from transformers.modeling_gguf_pytorch_utils import (
    TENSOR_PROCESSORS,
    TensorProcessor,
    get_gguf_hf_weights_map,
)

ARCHITECTURES = {
    "gemma3_text": "gemma3",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
}
_TRANSPOSED = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
Tensors = dict[str, np.ndarray]


def _interleaved(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """Rows as llama.cpp wants them for rotary embeddings: halves interleaved."""
    half = weight.reshape(n_heads, 2, weight.shape[0] // n_heads // 2, weight.shape[1])
    return half.swapaxes(1, 2).reshape(weight.shape)


def _turned(architecture: str, config: Any, name: str, values: np.ndarray) -> np.ndarray:
    """A tensor as llama.cpp's converter turns it, by its name in the file."""
    inner = name.split(".", 2)[-1]
    if architecture == "llama" and inner == "attn_q.weight":
        return _interleaved(values, config.num_attention_heads)
    if architecture == "llama" and inner == "attn_k.weight":
        return _interleaved(values, config.num_key_value_heads)
    if architecture in ("gemma2", "gemma3", "nemotron") and name.endswith("norm.weight"):
        return values + 1
    if architecture == "gpt2" and inner in _TRANSPOSED:
        return values.T
    return values[0] if inner == "ffn_gate_inp_shexp.weight" else values


def file_tensors(model: PreTrainedModel) -> Tensors:
    """A model's tensors, named and turned as llama.cpp's converter writes them."""
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    processor = TENSOR_PROCESSORS.get(architecture, TensorProcessor)(config={})
    names = {place: name for name, place in get_gguf_hf_weights_map(model, processor).items()}
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    written: Tensors = {}
    for name, tensor in model.state_dict().items():
        if tied and name.startswith("lm_head"):
            continue
        there = names[name]
        values = _turned(architecture, config, there, tensor.float().numpy())
        if name.endswith("experts.gate_up_proj"):
            place = there.rpartition(".")[0]
            gate, up = np.split(values, 2, axis=1)
            written |= {f"{place}.ffn_gate_exps.weight": gate, f"{place}.ffn_up_exps.weight": up}
        elif name.endswith("experts.down_proj"):
            written[f"{there}.weight"] = values
        else:
            written[there] = values
    return written


def write_gguf(
    path: Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast | None,
    *,
    tensors: Mapping[str, np.ndarray] | None = None,
    stored: Callable[[str, np.ndarray], str] = lambda name, values: "F32",
    about: Mapping[str, Any] | None = None,
) -> Path:
    """Write a model as a GGUF file.

    Args:
        path: The file.
        model: A tiny model in float32.
        tokenizer: A byte-level BPE, or None.
        tensors: What to write in place of `file_tensors`; bytes are written as they are.
        stored: Name and values to the type that a tensor is stored in.
        about: Values by key, put over those of the model's config; None leaves a key out.
    """
    config = model.config
    architecture = ARCHITECTURES.get(config.model_type, config.model_type)
    writer = gguf.GGUFWriter(path, architecture)
    plain = config.to_dict() | (getattr(config, "rope_parameters", None) or {})
    known = {field: getattr(config, field) for field in config.attribute_map}
    values = {
        f"{architecture}.{key}": (plain | known).get(field)
        for key, field in GGUF_CONFIG_MAPPING[config.model_type.removesuffix("_text")].items()
        if field is not None
    }
    if config.model_type in ("llama", "qwen3"):
        values[f"{architecture}.rope.dimension_count"] = config.head_dim
    values["tokenizer.ggml.padding_token_id"] = 2
    for key, value in {**values, **(about or {})}.items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
    if tokenizer is not None:
        _add_tokenizer(writer, tokenizer)
    for name, tensor in (file_tensors(model) if tensors is None else tensors).items():
        kind = gguf.GGMLQuantizationType[stored(name, tensor)]
        if tensor.dtype != np.uint8:
            tensor = gguf.quants.quantize(np.ascontiguousarray(tensor), kind)
        writer.add_tensor(name, tensor, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    vocabulary = tokenizer.get_vocab()
    tokens = sorted(vocabulary, key=lambda token: vocabulary[token])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges([f"{a} {b}" for a, b in merges])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


@pytest.fixture(scope="session")
def gguf_file() -> Callable[..., Path]:
    """Factory: ``gguf_file(path, model, tokenizer, ...)`` as `write_gguf`."""
    return write_gguf


@pytest.fixture(scope="session")
def gguf_tensors() -> Callable[[PreTrainedModel], Tensors]:
    """Factory: the tensors that `gguf_file` would write."""
    return file_tensors
