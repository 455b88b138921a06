"""The metadata of a GGUF file from a transformers config: sizes, epsilons, ropes, windows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from gguf import GGUFWriter, RopeScalingType
from transformers import PreTrainedConfig

from gptailor.errors import ExportError
from gptailor.export.gguf.tensor_layout import Architecture, fields_of, n_kv_heads

__all__ = ["add_numbers", "context_of", "every_sixth_is_full", "whole_context_of"]

Fields = Mapping[str, Any]

_LEAST_CONTEXT = 1024  # a model with a shorter context is of no use
_SCALES = {
    "attention_multiplier": GGUFWriter.add_attention_scale,
    "attn_logit_softcapping": GGUFWriter.add_attn_logit_softcapping,
    "clip_qkv": GGUFWriter.add_clamp_kqv,
    "embedding_multiplier": GGUFWriter.add_embedding_scale,
    "final_logit_softcapping": GGUFWriter.add_final_logit_softcapping,
    "logit_scale": GGUFWriter.add_logit_scale,
    "logits_scaling": GGUFWriter.add_logit_scale,
    "residual_multiplier": GGUFWriter.add_residual_scale,
}
_CONTEXT = ("max_position_embeddings", "n_positions")


def add_numbers(writer: GGUFWriter, config: PreTrainedConfig, known: Architecture) -> None:
    """Add every number that llama.cpp needs; refuse a config that it can't run."""
    fields: Fields = fields_of(config)
    n_heads = int(_first(fields, "num_attention_heads", "n_head"))
    size = int(_first(fields, "hidden_size", "n_embd"))
    head_size = int(fields.get("head_dim") or size // n_heads)
    writer.add_block_count(int(_first(fields, "num_hidden_layers", "n_layer")))
    writer.add_vocab_size(int(fields["vocab_size"]))
    writer.add_context_length(context_of(config, known))
    writer.add_embedding_length(size)
    if fields["model_type"] == "olmoe" and n_kv_heads(fields) != n_heads:
        raise ExportError(
            "--format gguf: llama.cpp runs olmoe only with as many key heads as query heads; "
            "use --format hf"
        )
    writer.add_head_count(n_heads)
    writer.add_head_count_kv(n_kv_heads(fields))
    writer.add_key_length(head_size)
    writer.add_value_length(head_size)
    inner = _first(fields, "intermediate_size", "n_inner", "ffn_hidden_size", default=4 * size)
    writer.add_feed_forward_length(int(inner))
    _add_epsilon(writer, fields)
    _add_experts(writer, fields)
    _add_windows(writer, fields, known)
    _add_rope(writer, fields, known, head_size)
    for field in known.scales:
        if fields.get(field) is not None:
            _SCALES[field](writer, float(fields[field]))
    if fields.get("use_parallel_residual") is not None:
        writer.add_parallel_residual(bool(fields["use_parallel_residual"]))


def context_of(config: PreTrainedConfig, known: Architecture) -> int:
    """Tokens that the file may be run with: those of a window where llama.cpp has no windows."""
    fields = fields_of(config)
    context = whole_context_of(config)
    if known.windowed or not any(_sliding(fields)):
        return context
    window = int(fields["sliding_window"])
    if window < min(context, _LEAST_CONTEXT):
        raise ExportError(
            f"--format gguf: llama.cpp runs {config.model_type} without sliding windows, and the "
            f"model's layers see only {window} tokens back; use --format hf"
        )
    return min(context, window)


def whole_context_of(config: PreTrainedConfig) -> int:
    """Tokens that the model can process."""
    return int(_first(fields_of(config), *_CONTEXT, default=2048))  # Falcon's names none


def every_sixth_is_full(config: PreTrainedConfig) -> bool:
    """Whether layers 5, 11, ... and no others have full attention, as in a whole Gemma 3."""
    sliding = _sliding(fields_of(config))
    return all(slides == bool((layer + 1) % 6) for layer, slides in enumerate(sliding))


def _first(fields: Fields, *names: str, default: Any = None) -> Any:
    for name in names:
        if fields.get(name) is not None:
            return fields[name]
    return default


def _add_epsilon(writer: GGUFWriter, fields: Fields) -> None:
    if fields.get("rms_norm_eps") is not None:
        writer.add_layer_norm_rms_eps(float(fields["rms_norm_eps"]))
    else:
        names = ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon", "norm_eps")
        writer.add_layer_norm_eps(float(_first(fields, *names, default=1e-5)))  # OLMo has none


def _add_experts(writer: GGUFWriter, fields: Fields) -> None:
    n_experts = _first(fields, "num_local_experts", "num_experts")
    if not n_experts:
        return
    writer.add_expert_count(int(n_experts))
    writer.add_expert_used_count(int(fields["num_experts_per_tok"]))
    if fields.get("moe_intermediate_size"):
        writer.add_expert_feed_forward_length(int(fields["moe_intermediate_size"]))
    if fields.get("shared_expert_intermediate_size"):
        shared = int(fields["shared_expert_intermediate_size"])
        writer.add_expert_shared_feed_forward_length(shared)


def _sliding(fields: Fields) -> Sequence[bool]:
    """For each layer, whether it has a sliding window."""
    n_layers = int(_first(fields, "num_hidden_layers", "n_layer"))
    kinds = fields.get("layer_types")
    if kinds is None:
        return [bool(fields.get("sliding_window"))] * n_layers
    other = set(kinds) - {"sliding_attention", "full_attention"}
    if other:
        raise ExportError(
            f"--format gguf: layers of kind {sorted(other)[0]!r} can't be written; use --format hf"
        )
    return [kind == "sliding_attention" for kind in kinds]


def _add_windows(writer: GGUFWriter, fields: Fields, known: Architecture) -> None:
    sliding = list(_sliding(fields))
    if not known.windowed:
        return
    if any(sliding):
        window = int(fields["sliding_window"])
    elif fields["model_type"] == "gemma2":  # llama.cpp aborts where no layer has a window
        sliding[0], window = True, int(_first(fields, *_CONTEXT))
    else:
        return
    writer.add_sliding_window(window)
    # a list, since a cut breaks every periodic pattern
    writer.add_sliding_window_pattern(sliding)


def _add_rope(writer: GGUFWriter, fields: Fields, known: Architecture, head_size: int) -> None:
    rope: Fields = fields.get("rope_parameters") or {}
    if not rope:
        return  # learned positions
    by_kind = "full_attention" in rope or "sliding_attention" in rope
    full: Fields = rope.get("full_attention", {}) if by_kind else rope
    slid: Fields = rope.get("sliding_attention", {}) if by_kind else {}
    if slid.get("rope_type", "default") != "default":
        raise ExportError(
            f"--format gguf: rotary positions of type {slid['rope_type']!r} in layers with a "
            "sliding window can't be written; use --format hf"
        )
    full = full or slid
    partial = _first(full, "partial_rotary_factor", default=1.0)
    writer.add_rope_dimension_count(int(head_size * float(partial)))
    writer.add_rope_freq_base(float(full["rope_theta"]))
    if slid:
        writer.add_rope_freq_base_swa(float(slid["rope_theta"]))
    _add_rope_scaling(writer, fields, full, known)


def _add_rope_scaling(
    writer: GGUFWriter, fields: Fields, rope: Fields, known: Architecture
) -> None:
    kind = rope.get("rope_type", "default")
    if kind not in known.rope:
        raise ExportError(
            f"--format gguf: rotary positions of type {kind!r} can't be written for "
            f"{fields['model_type']}, only {', '.join(known.rope)}; use --format hf"
        )
    if kind == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "yarn":
        _add_yarn(writer, rope)
    elif kind == "longrope":
        original = int(rope["original_max_position_embeddings"])
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(_longrope_factor(fields, rope, original))


def _add_yarn(writer: GGUFWriter, rope: Fields) -> None:
    other = [name for name in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(name)]
    if other or rope.get("truncate") is False:
        raise ExportError(
            f"--format gguf: rotary positions of type 'yarn' with {(*other, 'truncate')[0]} can't "
            "be written; use --format hf"
        )
    writer.add_rope_scaling_type(RopeScalingType.YARN)
    writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_rope_scaling_orig_ctx_len(int(rope["original_max_position_embeddings"]))
    writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
    writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))


def _longrope_factor(fields: Fields, rope: Fields, original: int) -> float:
    """The attention factor; as transformers' `_compute_longrope_parameters`."""
    if rope.get("attention_factor") is not None:
        return float(rope["attention_factor"])
    scale = float(rope.get("factor") or fields["max_position_embeddings"] / original)
    return math.sqrt(1 + math.log(scale) / math.log(original)) if scale > 1 else 1.0
