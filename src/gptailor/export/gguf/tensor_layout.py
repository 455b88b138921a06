"""llama.cpp's name of each model type, and its layout of that type's weights.

`ARCHITECTURES` has a row for each model type. A model type without a row, or a config that differs
from what its row requires, is refused. The tests compare each row with llama.cpp itself.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from gguf import MODEL_ARCH, GGUFWriter
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.errors import ExportError

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "architecture_of",
    "extra_tensors",
    "fields_of",
    "reshaped",
]

Fields = Mapping[str, Any]
Named = tuple[str, Tensor]
_Reshape = Callable[[str, Tensor, Fields], Iterator[Named]]

_ELSEWHERE = (
    "export with --format hf, and try llama.cpp's own convert_hf_to_gguf.py on the checkpoint"
)
_SILU = frozenset({"silu", "swish"})
# ggml's gelu is the tanh approximation, which llama.cpp uses for the exact one too
_GELU = frozenset({"gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh"})
_ACTIVATIONS = ("hidden_activation", "hidden_act", "activation_function", "activation")


def _as_it_is(name: str, tensor: Tensor, _: Fields) -> Iterator[Named]:
    yield name, tensor


def _interleaved(name: str, tensor: Tensor, fields: Fields) -> Iterator[Named]:
    """Reorder rows of each head's query and key from halves to pairs, as llama.cpp rotates them."""
    n_heads = fields["num_attention_heads"]
    n_of = {"q_proj": n_heads, "k_proj": fields.get("num_key_value_heads") or n_heads}
    heads = n_of.get(name.split(".")[-2])
    if heads is not None:
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
        n_heads, n_kv = fields["num_attention_heads"], _falcon_kv(fields)
        size = fields["hidden_size"] // n_heads
        groups = tensor.reshape(n_kv, n_heads // n_kv + 2, size, -1)
        parts = (groups[:, :-2], groups[:, -2:-1], groups[:, -1:])
        width = groups.shape[-1]
        tensor = torch.cat([p.reshape(-1, width) for p in parts]).reshape(tensor.shape)
    yield name, tensor


def _falcon_kv(fields: Fields) -> int:
    if fields.get("new_decoder_architecture"):
        return int(fields["num_kv_heads"])
    return 1 if fields.get("multi_query") else int(fields["num_attention_heads"])


def _gpt2(name: str, tensor: Tensor, _: Fields) -> Iterator[Named]:
    """Transpose GPT-2's matrices."""
    turned = (".c_attn.weight", ".c_proj.weight", ".c_fc.weight")
    yield name, tensor.T.contiguous() if name.endswith(turned) else tensor


@dataclass(frozen=True, slots=True)
class Architecture:
    """How one model type is written."""

    arch: MODEL_ARCH
    # from one tensor of transformers to those of llama.cpp, by transformers' names; also on meta
    reshape: _Reshape = _as_it_is
    activations: frozenset[str] = _SILU  # of `hidden_act`; llama.cpp has the function built in
    biases: frozenset[str] = frozenset()  # tensors that may have one, beside query, key and value
    rope: tuple[str, ...] = ("default", "linear", "yarn")  # supported types of scaling
    windowed: bool = False  # whether llama.cpp reads which layers have a sliding window
    needs_head: bool = False  # whether a tied head is written, too
    fixed: tuple[tuple[str, tuple[Any, ...]], ...] = ()  # fields that llama.cpp has built in
    scales: tuple[tuple[str, Callable[[GGUFWriter, float], None]], ...] = ()  # fields it reads


_ALL = frozenset(
    {"attn_norm", "attn_output", "attn_qkv", "ffn_norm", "ffn_up", "ffn_down", "output_norm"}
)
_PROJECTIONS = frozenset({"attn_output", "ffn_gate", "ffn_up", "ffn_down"})
_GRANITE = (
    ("attention_multiplier", GGUFWriter.add_attention_scale),
    ("embedding_multiplier", GGUFWriter.add_embedding_scale),
    ("residual_multiplier", GGUFWriter.add_residual_scale),
    ("logits_scaling", GGUFWriter.add_logit_scale),
)
_SOFTCAPS = (
    ("attn_logit_softcapping", GGUFWriter.add_attn_logit_softcapping),
    ("final_logit_softcapping", GGUFWriter.add_final_logit_softcapping),
)
_LLAMA_ROPE = ("default", "linear", "yarn", "llama3")

ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(MODEL_ARCH.LLAMA, _interleaved, biases=_PROJECTIONS, rope=_LLAMA_ROPE),
    "mistral": Architecture(MODEL_ARCH.LLAMA, _interleaved, rope=_LLAMA_ROPE),
    "mixtral": Architecture(MODEL_ARCH.LLAMA, _interleaved, rope=_LLAMA_ROPE),
    "qwen2": Architecture(MODEL_ARCH.QWEN2),
    "qwen3": Architecture(MODEL_ARCH.QWEN3),
    "qwen2_moe": Architecture(MODEL_ARCH.QWEN2MOE, _experts, fixed=(("norm_topk_prob", (False,)),)),
    "qwen3_moe": Architecture(MODEL_ARCH.QWEN3MOE, _experts, fixed=(("norm_topk_prob", (True,)),)),
    "olmoe": Architecture(  # its norms of query and key must be of one width
        MODEL_ARCH.OLMOE,
        _experts,
        fixed=(("norm_topk_prob", (False,)), ("clip_qkv", (None,))),
        needs_head=True,
    ),
    "gemma": Architecture(MODEL_ARCH.GEMMA, _norms_plus_one, _GELU),
    "gemma2": Architecture(MODEL_ARCH.GEMMA2, _gemma, _GELU, windowed=True, scales=_SOFTCAPS),
    "gemma3_text": Architecture(
        MODEL_ARCH.GEMMA3,
        _gemma,
        _GELU,
        windowed=True,
        fixed=(("attn_logit_softcapping", (None,)), ("use_bidirectional_attention", (False,))),
        scales=_SOFTCAPS[1:],
    ),
    "phi": Architecture(
        MODEL_ARCH.PHI2,
        activations=_GELU,
        biases=_ALL | {"output"},
        needs_head=True,
        fixed=(("qk_layernorm", (False,)),),
    ),
    "phi3": Architecture(MODEL_ARCH.PHI3, rope=("default", "longrope")),
    "olmo": Architecture(
        MODEL_ARCH.OLMO, _interleaved, scales=(("clip_qkv", GGUFWriter.add_clamp_kqv),)
    ),
    "olmo2": Architecture(MODEL_ARCH.OLMO2, needs_head=True),
    "olmo3": Architecture(MODEL_ARCH.OLMO2, windowed=True, needs_head=True),
    "granite": Architecture(
        MODEL_ARCH.GRANITE, _interleaved, biases=_PROJECTIONS, rope=_LLAMA_ROPE, scales=_GRANITE
    ),
    "granitemoe": Architecture(
        MODEL_ARCH.GRANITE_MOE, _interleaved, rope=_LLAMA_ROPE, scales=_GRANITE
    ),
    "smollm3": Architecture(MODEL_ARCH.SMOLLM3, _interleaved),
    "starcoder2": Architecture(
        MODEL_ARCH.STARCODER2, activations=_GELU, biases=_ALL, fixed=(("use_bias", (True,)),)
    ),
    "stablelm": Architecture(
        MODEL_ARCH.STABLELM,
        biases=frozenset({"attn_norm", "ffn_norm", "output_norm"}),
        needs_head=True,
        fixed=(("qk_layernorm", (False,)),),
    ),
    "gpt_neox": Architecture(
        MODEL_ARCH.GPTNEOX,
        _gpt_neox,
        _GELU,
        biases=_ALL,
        needs_head=True,
        rope=("default",),
        fixed=(("attention_bias", (True,)),),
    ),
    "gpt2": Architecture(
        MODEL_ARCH.GPT2,
        _gpt2,
        _GELU,
        biases=_ALL,
        fixed=(
            ("scale_attn_by_inverse_layer_idx", (False,)),
            ("scale_attn_weights", (True,)),
            ("add_cross_attention", (False,)),
        ),
    ),
    "falcon": Architecture(
        MODEL_ARCH.FALCON,
        _falcon,
        _GELU,
        biases=frozenset({"attn_norm", "attn_norm_2", "output_norm"}),
        fixed=(("parallel_attn", (True,)),),
    ),
    "nemotron": Architecture(
        MODEL_ARCH.NEMOTRON, _norms_plus_one, frozenset({"relu2"}), biases=_ALL, needs_head=True
    ),
    "cohere": Architecture(
        MODEL_ARCH.COMMAND_R,
        fixed=(("use_qk_norm", (False,)),),
        rope=("default",),
        scales=(("logit_scale", GGUFWriter.add_logit_scale),),
    ),
}


def fields_of(config: PreTrainedConfig) -> dict[str, Any]:
    """A config's fields, without those that its class does not declare and so does not read."""
    said: dict[str, Any] = config.to_dict()
    known = {field.name for field in dataclasses.fields(config)} | {"model_type", "head_dim"}
    known |= set(config.attribute_map.values())
    return {name: value for name, value in said.items() if name in known}


def architecture_of(config: PreTrainedConfig) -> Architecture:
    """How this model is written, if llama.cpp can run its config.

    Raises:
        ExportError: It can't, or there is no row for the model type.
    """
    known = ARCHITECTURES.get(config.model_type)
    if known is None:
        raise ExportError(
            f"--format gguf: does not know model type {config.model_type!r}, only "
            f"{', '.join(sorted(ARCHITECTURES))}; {_ELSEWHERE}"
        )
    fields = fields_of(config)
    fixed = [*known.fixed, *((n, tuple(known.activations)) for n in _ACTIVATIONS)]
    for name, allowed in fixed:
        if name in fields and fields[name] not in allowed and fields[name] is not None:
            raise ExportError(
                f"--format gguf: llama.cpp runs {config.model_type} only with "
                f"{name} {' or '.join(map(str, sorted(allowed, key=str)))}, and the config says "
                f"{fields[name]!r}; use --format hf"
            )
    if "no_rope_layers" in fields:
        _refuse_rope_pattern(fields["no_rope_layers"])
    return known


def _refuse_rope_pattern(has_rope: Sequence[int]) -> None:
    wrong = [i for i, rope in enumerate(has_rope) if bool(rope) != bool((i + 1) % 4)]
    if wrong:
        raise ExportError(
            "--format gguf: llama.cpp runs smollm3 with rotary positions in all but every fourth "
            f"layer, and layer {wrong[0]} of the tailored model is another kind; cut such that "
            "layers 3, 7, 11 ... are the ones without, or use --format hf"
        )


def reshaped(
    known: Architecture, name: str, tensor: Tensor, fields: Fields
) -> Iterator[tuple[str, Tensor]]:
    """The tensors of llama.cpp from one tensor, by names for `gguf.get_tensor_name_map`."""
    yield from known.reshape(name, tensor, fields)


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
