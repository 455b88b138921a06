"""What differs by architecture: where the layers are, and which config fields are per layer.

The differences are data, in the tables below. A list with one entry a layer is cut with the layers;
lists of indices and counts are handled where they are known; a field that looks per layer and is
not known is refused, not guessed.
"""

import dataclasses
import re
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from gptailor.errors import FamilyError, TailoringError

__all__ = [
    "MULTIMODAL",
    "layer_kinds",
    "layers_path",
    "n_layers_of",
    "refuse_unsupported",
    "tailored_config",
    "text_config",
]

# multimodal models whose logits, given text alone, are those of their language model by itself;
# checked again when weights are opened, since language models of one type may differ
MULTIMODAL: tuple[str, ...] = (
    *("aria", "deepseek_vl", "exaone4_5", "fuyu", "gemma3", "got_ocr2", "hyperclovax_vision_v2"),
    *("idefics2", "idefics3", "internvl", "lighton_ocr", "llama4", "llava", "llava_next"),
    *("llava_next_video", "llava_onevision", "mistral3", "pp_chart2table", "qianfan_ocr"),
    *("smolvlm", "video_llama_3", "video_llava", "vipllava"),
)
_RECURRENT = "its layers carry a recurrent state, which the evaluation of candidates can't share"
_SHARED = "its layers share weights or state with one another, so that no layer can be cut alone"
_PATTERN = "its config says which layer is of which kind by a pattern that can't follow a cut"
_NUMBERED = "a layer computes with its number, or with how many layers there are"
_ALIBI = (
    "its attention counts distances along the row, also over other texts packed into it (alibi)"
)
_CHOOSING = "each token attends to a chosen few of a row, also of other texts packed into it"
_NO_DECODER = "it is not a causal language model of stacked decoder layers"

# model types that are refused, and why
_REFUSED: Mapping[str, str] = {
    **dict.fromkeys(("gemma3n", "gemma3n_text", "reformer", "zamba", "zamba2"), _SHARED),
    **dict.fromkeys(("inkling2_text", "hrm_text", "longcat_flash", "zaya"), _SHARED),
    **dict.fromkeys(("bamba", "falcon_h1", "falcon_mamba", "jamba", "mamba", "mamba2"), _RECURRENT),
    **dict.fromkeys(("recurrent_gemma", "rwkv", "xlstm", "nemotron_h", "lfm2_moe"), _RECURRENT),
    **dict.fromkeys(("beam", "deepseek_v4"), _SHARED),
    **dict.fromkeys(("diffllama", "minicpm3"), _NUMBERED),
    **dict.fromkeys(("gpt_neox_japanese", "modernbert-decoder"), _NUMBERED),
    **dict.fromkeys(("bloom", "mpt"), _ALIBI),
    **dict.fromkeys(("cpmant", "git", "phi4_multimodal"), _NO_DECODER),
    **dict.fromkeys(("ernie4_5_moe", "gpt_neo", "granitemoehybrid"), _PATTERN),
    **dict.fromkeys(("bert", "bert-generation", "big_bird", "blt", "camembert"), _NO_DECODER),
    **dict.fromkeys(("data2vec-text", "electra", "ernie", "megatron-bert", "moshi"), _NO_DECODER),
    **dict.fromkeys(("rembert", "roberta", "roberta-prelayernorm", "roc_bert"), _NO_DECODER),
    **dict.fromkeys(("roformer", "trocr", "xlm", "xlm-roberta", "xlnet", "xmod"), _NO_DECODER),
    **dict.fromkeys(("xlm-roberta-xl",), _NO_DECODER),
}
_RECURRENT_KINDS = re.compile(r"mamba|conv|recurrent|linear|hybrid|ssm|delta", re.IGNORECASE)

# fields that list the indices of some layers
_INDEX_LISTS = ("mlp_only_layers", "moe_layers")
# "the first k layers are dense"; with an explicit list the count says nothing
_PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers")
# a count of layers that is only read where `layer_types` is not given
_CLAMPED = ("max_window_layers",)
# patterns that are only read where the explicit list is not given
_PATTERNS: Mapping[str, str] = {
    "full_attention_interval": "layer_types",
    "global_attn_every_n_layers": "layer_types",
    "interleave_moe_layer_step": "moe_layers",
    "no_rope_layer_interval": "no_rope_layers",
    "sliding_window_pattern": "layer_types",
}
_SPARSE_STEP = "decoder_sparse_step"
# fields by which layers share state or weights, when not 0
_SHARING = ("num_kv_shared_layers", "hidden_size_per_layer_input")
# how many tokens each token chooses to attend to
_CHOSEN_TOKENS = ("index_topk", "index_topk_blocks", "keep_window_size")
_LOOKS_PER_LAYER = re.compile(
    r"period|offset|interval|every_n|_step$|_stage|start_index|end_index|per_stack|_group_size$"
    r"|(layer|layers|block|blocks)_(ids|idx|idxs|indices|pattern)$|_idxs$|block_types$"
)
_NOT_PER_LAYER = re.compile(r"_token_id$|_token_ids$|^time_step|_index$|multipliers$|_factor$")


def layers_path(model: PreTrainedModel) -> str:
    """The name of the model's list of decoder layers, such as ``model.layers``.

    Raises:
        FamilyError: There is no such list, or more than one.
    """
    n_layers = n_layers_of(model.config)
    found = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == n_layers
    ]
    depth = min((name.count(".") for name in found), default=0)
    shallow = [name for name in found if name.count(".") == depth]
    if len(shallow) != 1:
        raise FamilyError(
            f"{model.config.model_type}: expected one list of {n_layers} decoder layers in the "
            f"model but found {len(shallow)}; this architecture is not supported"
        )
    return str(shallow[0])


def n_layers_of(config: PreTrainedConfig) -> int:
    """The number of decoder layers in the config.

    Raises:
        FamilyError: It has none.
    """
    n_layers = config.to_dict().get(_layers_field(config))
    if not isinstance(n_layers, int) or isinstance(n_layers, bool) or n_layers < 1:
        raise FamilyError(
            f"{config.model_type}: {_layers_field(config)} is {n_layers!r} in its config; "
            "it must be 1 or more"
        )
    return n_layers


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the language model in a multimodal one, or else the config itself."""
    return config.get_text_config() if config.model_type in MULTIMODAL else config


def layer_kinds(config: PreTrainedConfig) -> tuple[Hashable, ...]:
    """The kind of layer at each position; layers of equal kind are interchangeable.

    A kind consists of every per-layer field of the config: attention type, dense or expert, with or
    without rotary embedding, and so on.
    """
    fields, n_layers = config.to_dict(), n_layers_of(config)
    kinds: list[list[Hashable]] = [[] for _ in range(n_layers)]
    for name in _per_layer_lists(config, fields):
        for layer in range(n_layers):
            kinds[layer].append((name, _hashable(fields[name][layer])))
    for name, chosen in _chosen_layers(fields, n_layers).items():
        for layer in range(n_layers):
            kinds[layer].append((name, layer in chosen))
    for layer, own in _per_layer_config(fields).items():
        if layer < n_layers:
            kinds[layer].append(("per_layer_config", _hashable(own)))
    return tuple(tuple(kind) for kind in kinds)


def tailored_config(config: PreTrainedConfig, positions: Sequence[int]) -> PreTrainedConfig:
    """Copy a config for a model whose i-th layer is of the kind of `positions[i]`.

    Args:
        config: The config of the whole model; unchanged.
        positions: For each layer of the result, a position in the whole model.

    Raises:
        TailoringError: A position does not exist, or the architecture's config can't express this
            order of layers.
    """
    fields, n_layers = config.to_dict(), n_layers_of(config)
    for position in positions:
        if not 0 <= position < n_layers:
            raise TailoringError(f"position {position} is not one of 0 to {n_layers - 1}")
    chosen = _chosen_layers(fields, n_layers)
    for name in _per_layer_lists(config, fields):
        fields[name] = [fields[name][position] for position in positions]
    _remap_indices(fields, positions, chosen)
    _recount(config.model_type, fields, positions, chosen)
    fields[_layers_field(config)] = len(positions)
    # made anew, not edited: some configs derive private state from these fields
    made = type(config).from_dict(fields)
    _refuse_altered(config, made, positions)
    return made


def _refuse_altered(
    config: PreTrainedConfig, made: PreTrainedConfig, positions: Sequence[int]
) -> None:
    """Refuse where the config class made another order of layers than was asked for."""
    wanted, found = layer_kinds(config), layer_kinds(made)
    for layer, position in enumerate(positions):
        if wanted[position] != found[layer]:
            was, would_be = _difference(wanted[position], found[layer])
            raise TailoringError(
                f"layer {position} ({was}) is to be layer {layer}, but the config of a "
                f"{config.model_type} model makes that {would_be}"
            )


def _difference(one: Hashable, other: Hashable) -> tuple[str, str]:
    """The first field in which two kinds of layer differ, with its value in each."""
    assert isinstance(one, tuple), "a kind is made of fields"
    assert isinstance(other, tuple), "a kind is made of fields"
    for (name, value), (_, found) in zip(one, other, strict=False):
        if value != found:
            return f"{name}: {value}", f"{name}: {found}"
    return "of one kind", "another kind"


def _remap_indices(
    fields: dict[str, Any], positions: Sequence[int], chosen: Mapping[str, frozenset[int]]
) -> None:
    """Renumber lists and mappings of layer indices."""
    for name in _INDEX_LISTS:
        if isinstance(fields.get(name), list | tuple):
            fields[name] = [i for i, p in enumerate(positions) if p in fields[name]]
    if _SPARSE_STEP in chosen:
        dense = [i for i, p in enumerate(positions) if p in chosen[_SPARSE_STEP]]
        fields |= {_SPARSE_STEP: 1, "mlp_only_layers": dense}
    own = _per_layer_config(fields)
    if own:
        fields["per_layer_config"] = {
            str(i): own[position] for i, position in enumerate(positions) if position in own
        }


def _recount(
    model_type: str,
    fields: dict[str, Any],
    positions: Sequence[int],
    chosen: Mapping[str, frozenset[int]],
) -> None:
    """Set counts of first layers to how many of them are kept."""
    for name in (*_PREFIX_COUNTS, *_CLAMPED):
        if not isinstance(fields.get(name), int):
            continue
        first = [position < fields[name] for position in positions]
        if name in chosen and first != sorted(first, reverse=True):
            raise TailoringError(
                f"{model_type} has dense layers only before its expert layers ({name}), "
                "but here a dense layer stands after an expert one; keep their order"
            )
        fields[name] = sum(first)


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Refuse a model whose layers can't be cut, or whose config can't express a cut.

    Of a multimodal model, its language model is checked.

    Raises:
        FamilyError: The reason, in one sentence.
    """
    reason = _reason(text_config(config))
    if reason is not None:
        raise FamilyError(f"models of type {config.model_type!r} are not supported: {reason}")


def _reason(config: PreTrainedConfig) -> str | None:
    fields = config.to_dict()
    if config.is_encoder_decoder:
        return "it is an encoder with a decoder; only decoders are tailored"
    inner = [name for name in config.sub_configs if name.endswith("_config") and fields.get(name)]
    if inner and _layers_field(config) not in fields:
        return (
            f"it is made of several models ({', '.join(inner)}), which are not taken apart; "
            "save its language model alone and name that folder"
        )
    if config.model_type in _REFUSED:
        return _REFUSED[config.model_type]
    return (
        _sharing_field(config.model_type, fields)
        or _across_the_row(fields)
        or _recurrent_kind(config, fields)
        or _unknown_field(config, fields)
    )


def _sharing_field(model_type: str, fields: Mapping[str, Any]) -> str | None:
    """A field by which a layer depends on other layers or on its own number, as a sentence."""
    for name in _SHARING:
        if fields.get(name):
            return f"{name} is {fields[name]}, so its layers share weights or state"
    if fields.get("per_layer_config") and not model_type.startswith("gemma4"):
        return "per_layer_config is set, which the model itself does not read"
    if "shared" in (fields.get("indexer_types") or ()):
        return "some layers use the index of the layer before (indexer_types: shared)"
    if fields.get("scale_attn_by_inverse_layer_idx"):
        return f"{_NUMBERED} (scale_attn_by_inverse_layer_idx)"
    return None


def _across_the_row(fields: Mapping[str, Any]) -> str | None:
    """A field by which a token attends beyond its own text in a packed row, as a sentence."""
    if fields.get("alibi"):
        return f"{_ALIBI}; only a config with alibi: false can be tailored"
    for name in _CHOSEN_TOKENS:
        if fields.get(name):
            return f"{_CHOOSING} ({name} is {fields[name]})"
    return None


def _recurrent_kind(config: PreTrainedConfig, fields: Mapping[str, Any]) -> str | None:
    for name in _per_layer_lists(config, fields):
        for value in fields[name]:
            if isinstance(value, str) and _RECURRENT_KINDS.search(value):
                return f"{_RECURRENT} ({name} names {value!r})"
    return None


def _unknown_field(config: PreTrainedConfig, fields: Mapping[str, Any]) -> str | None:
    """A field that looks per layer and is not known, as a sentence."""
    known = (*_INDEX_LISTS, *_PREFIX_COUNTS, *_CLAMPED, _SPARSE_STEP)
    one_a_layer = _per_layer_lists(config, fields)
    for name in _own_fields(config):
        value = fields.get(name)
        looks = _LOOKS_PER_LAYER.search(name) and not _NOT_PER_LAYER.search(name)
        if not looks or name in known or name in one_a_layer:
            continue
        explicit = fields.get(_PATTERNS.get(name, ""))
        if value and isinstance(value, int | list | tuple) and explicit is None:
            return f"{name} is {value!r} in its config, and it is not known how that follows a cut"
    return None


def _layers_field(config: PreTrainedConfig) -> str:
    return str(config.attribute_map.get("num_hidden_layers", "num_hidden_layers"))


def _own_fields(config: PreTrainedConfig) -> tuple[str, ...]:
    """Fields that the architecture's own config class declares."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return tuple(field.name for field in dataclasses.fields(config) if field.name not in common)


def _per_layer_lists(config: PreTrainedConfig, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the fields that hold one entry a layer."""
    n_layers = n_layers_of(config)
    return tuple(
        name
        for name in _own_fields(config)
        if isinstance(fields.get(name), list | tuple)
        and len(fields[name]) == n_layers
        and name not in _INDEX_LISTS
        and not _NOT_PER_LAYER.search(name)
    )


def _chosen_layers(fields: Mapping[str, Any], n_layers: int) -> dict[str, frozenset[int]]:
    """The layers that index lists, prefix counts and the sparse step select."""
    chosen: dict[str, frozenset[int]] = {}
    for name in _INDEX_LISTS:
        if isinstance(fields.get(name), list | tuple):
            chosen[name] = frozenset(fields[name])
    for name in _PREFIX_COUNTS:
        if isinstance(fields.get(name), int) and not fields.get("mlp_layer_types"):
            chosen[name] = frozenset(range(min(fields[name], n_layers)))
    step = fields.get(_SPARSE_STEP)
    if isinstance(step, int) and step > 0:
        listed = chosen.pop("mlp_only_layers", frozenset())
        skipped = {layer for layer in range(n_layers) if (layer + 1) % step != 0}
        chosen[_SPARSE_STEP] = frozenset(listed | skipped)
    return chosen


def _per_layer_config(fields: Mapping[str, Any]) -> dict[int, Any]:
    own = fields.get("per_layer_config")
    return {int(layer): value for layer, value in own.items()} if isinstance(own, dict) else {}


def _hashable(value: Any) -> Hashable:
    return value if isinstance(value, str | int | float | bool | None) else repr(value)
