"""llama.cpp's name of each model type, and its layout of that type's weights."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import torch
from gguf import MODEL_ARCH
from pydantic import BeforeValidator
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.core.validation import Frozen
from gptailor.errors import ExportError
from gptailor.files.yaml import read_yaml

__all__ = [
    "Architecture",
    "architecture_of",
    "extra_tensors",
    "fields_of",
    "known_architectures",
    "n_kv_heads",
    "reshaped",
]

Fields = Mapping[str, Any]
Named = tuple[str, Tensor]

_ELSEWHERE = (
    "export with --format hf, and try llama.cpp's own convert_hf_to_gguf.py on the checkpoint"
)
_ACTIVATIONS = {
    "silu": ("silu", "swish"),
    # ggml's gelu is the tanh approximation, which llama.cpp uses for the exact one too
    "gelu": ("gelu", "gelu_fast", "gelu_new", "gelu_pytorch_tanh"),
    "relu2": ("relu2",),
}
_ACTIVATION_FIELDS = ("hidden_activation", "hidden_act", "activation_function", "activation")


def _interleaved(name: str, tensor: Tensor, fields: Fields) -> Iterator[Named]:
    """Reorder rows of each head's query and key from halves to pairs, as llama.cpp rotates them."""
    n_of = {"q_proj": fields["num_attention_heads"], "k_proj": n_kv_heads(fields)}
    heads = n_of.get(name.split(".")[-2])
    if heads is not None:
        if tensor.shape[0] % (2 * heads):
            raise ExportError(
                f"--format gguf: the {heads} heads of {name} have an odd size, which llama.cpp "
                "can't rotate; use --format hf"
            )
        halves = tensor.reshape(heads, 2, tensor.shape[0] // heads // 2, *tensor.shape[1:])
        tensor = halves.swapaxes(1, 2).reshape(tensor.shape)
    yield from _experts(name, tensor, fields)


def _experts(name: str, tensor: Tensor, _: Fields) -> Iterator[Named]:
    """Split gate and up of all experts, which transformers keeps in one tensor."""
    name = name.replace(".block_sparse_moe.router.", ".mlp.gate.")  # Granite's
    name = name.replace(".block_sparse_moe.", ".mlp.")
    if name.endswith("experts.gate_up_proj"):
        stem = name.removesuffix(".gate_up_proj")
        gate, up = tensor.chunk(2, dim=-2)
        yield f"{stem}.gate_proj.weight", gate.contiguous()
        yield f"{stem}.up_proj.weight", up.contiguous()
    elif name.endswith("experts.down_proj"):
        yield f"{name}.weight", tensor
    else:
        yield name, tensor


def _norms_plus_one(name: str, tensor: Tensor, _: Fields) -> Iterator[Named]:
    """Add 1 to norms: the model multiplies by 1 + weight, llama.cpp by the weight."""
    yield name, tensor + 1 if name.endswith("norm.weight") else tensor


def _gemma(name: str, tensor: Tensor, fields: Fields) -> Iterator[Named]:
    """Add 1 to norms, and scale the query where llama.cpp scales scores differently."""
    wanted = 1 / math.sqrt(fields["query_pre_attn_scalar"])
    factor = wanted / _llama_cpp_scale(fields)
    for new, made in _norms_plus_one(name, tensor, fields):
        scaled = "q_norm.weight" if fields["model_type"] == "gemma3_text" else "q_proj.weight"
        yield new, made * factor if new.endswith(scaled) and factor != 1 else made


def _llama_cpp_scale(fields: Fields) -> float:
    """llama.cpp's factor of attention scores; it recognises 27B by its number of layers."""
    n_layers_27b = 62 if fields["model_type"] == "gemma3_text" else 46
    if fields["num_hidden_layers"] == n_layers_27b:
        return 1 / math.sqrt(fields["hidden_size"] // fields["num_attention_heads"])
    return 1 / math.sqrt(fields["head_dim"])


def _gpt_neox(name: str, tensor: Tensor, fields: Fields) -> Iterator[Named]:
    """Reorder query, key and value of each head to all queries, all keys, all values."""
    if ".query_key_value." in name:
        n_heads = fields["num_attention_heads"]
        per_head = tensor.reshape(n_heads, 3, -1, *tensor.shape[1:])
        tensor = per_head.swapaxes(0, 1).reshape(tensor.shape)
    yield name, tensor


def _falcon(name: str, tensor: Tensor, fields: Fields) -> Iterator[Named]:
    """Reorder queries, key and value of each group to all queries, all keys, all values."""
    if ".query_key_value." in name:
        n_heads, n_kv = fields["num_attention_heads"], n_kv_heads(fields)
        size = fields["hidden_size"] // n_heads
        groups = tensor.reshape(n_kv, n_heads // n_kv + 2, size, -1)
        parts = (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])
        width = groups.shape[-1]
        tensor = torch.cat([p.reshape(-1, width) for p in parts]).reshape(tensor.shape)
    yield name, tensor


def _gpt2(name: str, tensor: Tensor, _: Fields) -> Iterator[Named]:
    """Transpose GPT-2's matrices."""
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    yield name, tensor.T.contiguous() if name.endswith(turned) else tensor


_RESHAPES: Mapping[str, Callable[[str, Tensor, Fields], Iterator[Named]]] = {
    "interleaved": _interleaved,
    "experts": _experts,
    "norms_plus_one": _norms_plus_one,
    "gemma": _gemma,
    "gpt_neox": _gpt_neox,
    "falcon": _falcon,
    "gpt2": _gpt2,
}


class Architecture(Frozen):
    """An entry of architectures.yaml, which says what each field means."""

    arch: Annotated[MODEL_ARCH, BeforeValidator(MODEL_ARCH.__getitem__)]
    reshape: str | None = None
    activation: str = "silu"
    biases: Sequence[str] = ()
    rope: Sequence[str] = ("default", "linear", "yarn")
    windowed: bool = False
    needs_head: bool = False
    fixed: Mapping[str, bool | None] = {}
    scales: Sequence[str] = ()


@functools.cache
def known_architectures() -> Mapping[str, Architecture]:
    """How each model type that llama.cpp can run is written."""
    plain = read_yaml(Path(__file__).with_name("architectures.yaml"))
    return {model_type: Architecture(**facts) for model_type, facts in plain.items()}


def fields_of(config: PreTrainedConfig) -> dict[str, Any]:
    """A config's fields, without those that its class does not declare and so does not read."""
    said: dict[str, Any] = config.to_dict()
    known = {field.name for field in dataclasses.fields(config)} | {"model_type", "head_dim"}
    known |= set(config.attribute_map.values())
    return {name: value for name, value in said.items() if name in known}


def n_kv_heads(fields: Fields) -> int:
    """Heads of keys and values; as many as of queries where the config names none."""
    n_heads = fields.get("num_attention_heads") or fields["n_head"]
    if fields["model_type"] != "falcon":
        return int(fields.get("num_key_value_heads") or n_heads)
    if fields["new_decoder_architecture"]:
        return int(fields["num_kv_heads"])
    return 1 if fields["multi_query"] else int(n_heads)


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """How this model is written; refused where llama.cpp can't run its type or its config."""
    known = known_architectures().get(config.model_type)
    if known is None:
        raise ExportError(
            f"--format gguf: does not know model type {config.model_type!r}, only "
            f"{', '.join(sorted(known_architectures()))}; export with --format hf, and try "
            "llama.cpp's own convert_hf_to_gguf.py on the checkpoint"
        )
    fields = fields_of(config)
    allowed: dict[str, tuple[object, ...]] = {name: (value,) for name, value in known.fixed.items()}
    allowed |= dict.fromkeys(_ACTIVATION_FIELDS, _ACTIVATIONS[known.activation])
    for name, values in allowed.items():
        if fields.get(name) is not None and fields[name] not in values:
            raise ExportError(
                f"--format gguf: llama.cpp runs {config.model_type} only with "
                f"{name} {' or '.join(map(str, values))}, and the config says "
                f"{fields[name]!r}; use --format hf"
            )
    has_rope = fields.get("no_rope_layers") or []
    wrong = [i for i, rope in enumerate(has_rope) if bool(rope) != bool((i + 1) % 4)]
    if wrong:
        raise ExportError(
            "--format gguf: llama.cpp runs smollm3 with rotary positions in all but every fourth "
            f"layer, and layer {wrong[0]} of the tailored model is another kind; cut such that "
            "layers 3, 7, 11 ... are the ones without, or use --format hf"
        )
    return known


def reshaped(
    known: Architecture, name: str, tensor: Tensor, fields: Fields
) -> Iterable[tuple[str, Tensor]]:
    """The tensors of llama.cpp from one tensor, also on meta, by names that `gguf` can map."""
    if known.reshape is None:
        return [(name, tensor)]
    return _RESHAPES[known.reshape](name, tensor, fields)


def extra_tensors(fields: Fields) -> dict[str, Tensor]:
    """Rope factors, which transformers computes from the config, by their names in the file."""
    rope: Fields = fields.get("rope_parameters") or {}
    if rope.get("rope_type") == "llama3":
        return {"rope_freqs.weight": _llama3_factors(fields, rope)}
    if rope.get("rope_type") == "longrope":
        return {
            f"rope_factors_{kind}.weight": torch.tensor(rope[f"{kind}_factor"])
            for kind in ("long", "short")
        }
    return {}


def _llama3_factors(fields: Fields, rope: Fields) -> Tensor:
    """Divisors of the frequencies; as transformers' `_compute_llama3_parameters`."""
    size = fields.get("head_dim") or fields["hidden_size"] // fields["num_attention_heads"]
    steps = torch.arange(0, size, 2, dtype=torch.float64) / size
    wavelength = 2 * torch.pi * float(rope["rope_theta"]) ** steps
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    turns = rope["original_max_position_embeddings"] / wavelength
    smooth = ((turns - low) / (high - low)).clamp(0, 1)
    factors: Tensor = 1 / ((1 - smooth) / rope["factor"] + smooth)
    return factors.float()
