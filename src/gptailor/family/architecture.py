"""What differs by architecture: where the layers are, and which config fields are per layer.

A list with one entry a layer is cut with the layers; lists of indices and counts are handled where
they are known; a field that looks per layer and is not known is refused, not guessed.
"""

import dataclasses
import functools
import re
from collections.abc import Hashable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from gptailor.core.validation import Frozen
from gptailor.errors import FamilyError, TailoringError
from gptailor.files.yaml import read_yaml

__all__ = [
    "Facts",
    "Kind",
    "facts",
    "kind_difference",
    "layer_kinds",
    "layers_field",
    "layers_path",
    "max_positions",
    "n_layers_of",
    "norm_offset",
    "own_fields",
    "refuse_unsupported",
    "rotary_bounds",
    "tailored_config",
    "text_config",
]

Kind = tuple[tuple[str, Hashable], ...]  # the per-layer fields of one layer, with their values

_RECURRENT_KINDS = re.compile(r"mamba|conv|recurrent|linear|hybrid|ssm|delta", re.IGNORECASE)
# fields that list the indices of some layers
_INDEX_LISTS = ("mlp_only_layers", "moe_layers")
# "the first k layers are dense"; with an explicit list the count says nothing
_PREFIX_COUNTS = ("first_k_dense_replace", "num_dense_layers")
# a count of layers that is only read where `layer_types` is not given
_CLAMPED = ("max_window_layers",)
# counts of layers behind the last that predict further tokens; transformers does not read them
_FURTHER_TOKENS = (
    *("num_nextn_predict_layers", "num_mtp_layers", "mtp_num_hidden_layers", "num_mtp_modules"),
)
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


class Facts(Frozen):
    """The contents of architectures.yaml, which says what each means."""

    multimodal: list[str]
    reasons: dict[str, str]
    refused: dict[str, list[str]]
    patterns: dict[str, str]
    may_differ: list[str]
    norms_plus_one: list[str]
    gguf_names: dict[str, str]


def norm_offset(config: PreTrainedConfig) -> float:
    """What is added to a norm's weight before it multiplies: 1 or 0."""
    return 1.0 if config.model_type in facts().norms_plus_one else 0.0


@functools.cache
def facts() -> Facts:
    """Read architectures.yaml."""
    return Facts(**read_yaml(Path(__file__).with_name("architectures.yaml")))


def layers_path(model: PreTrainedModel) -> str:
    """The name of the model's list of decoder layers, such as ``model.layers``."""
    n_layers = n_layers_of(model.config)
    found = [
        str(name)
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
    return shallow[0]


def n_layers_of(config: PreTrainedConfig) -> int:
    """The number of decoder layers in the config."""
    n_layers = config.to_dict().get(layers_field(config))
    if not isinstance(n_layers, int) or isinstance(n_layers, bool) or n_layers < 1:
        raise FamilyError(
            f"{config.model_type}: {layers_field(config)} is {n_layers!r} in its config; "
            "it must be 1 or more"
        )
    return n_layers


def max_positions(config: PreTrainedConfig) -> int | None:
    """The most tokens that a model was made for, by whatever name; None where it names none."""
    field = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
    known = config.to_dict().get(field)
    return known if isinstance(known, int) and known > 0 else None


def rotary_bounds(config: PreTrainedConfig) -> tuple[int, ...]:
    """Lengths, rising, above which a row has another rotary embedding (LongRoPE); mostly none."""
    rope = config.to_dict().get("rope_parameters") or {}
    settings = [rope, *(one for one in rope.values() if isinstance(one, dict))]
    longrope = [one for one in settings if one.get("rope_type") == "longrope"]
    return tuple(sorted({int(one["original_max_position_embeddings"]) for one in longrope}))


def text_config(config: PreTrainedConfig) -> PreTrainedConfig:
    """The config of the language model in a multimodal one, or else the config itself."""
    return config.get_text_config() if config.model_type in facts().multimodal else config


def layer_kinds(config: PreTrainedConfig) -> tuple[Kind, ...]:
    """The kind of layer at each position; layers of equal kind are interchangeable.

    A kind consists of every per-layer field of the config: attention type, dense or expert, with or
    without rotary embedding, and so on.
    """
    fields, n_layers = config.to_dict(), n_layers_of(config)
    values = {name: fields[name] for name in _per_layer_lists(config, fields)}
    for name, chosen in _chosen_layers(fields, n_layers).items():
        values[name] = [layer in chosen for layer in range(n_layers)]
    own = _per_layer_config(fields)
    values["per_layer_config"] = [own.get(layer) for layer in range(n_layers)]
    return tuple(
        tuple((name, str(of_layers[layer])) for name, of_layers in values.items())
        for layer in range(n_layers)
    )


def kind_difference(one: Kind, other: Kind) -> tuple[str, Hashable, Hashable] | None:
    """The first field in which two kinds of layer differ, with both values."""
    values, others = dict(one), dict(other)
    pairs = ((name, values.get(name), others.get(name)) for name in values | others)
    return next((pair for pair in pairs if pair[1] != pair[2]), None)


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
    for name in _per_layer_lists(config, fields):
        fields[name] = [fields[name][position] for position in positions]
    _renumber(fields, positions, _chosen_layers(fields, n_layers))
    fields[layers_field(config)] = len(positions)
    fields |= {name: 0 for name in _FURTHER_TOKENS if fields.get(name)}  # these are left out
    # made anew, not edited: some configs derive private state from these fields
    made = type(config).from_dict(fields)
    wanted = layer_kinds(config)
    for layer, (position, found) in enumerate(zip(positions, layer_kinds(made), strict=True)):
        if difference := kind_difference(wanted[position], found):
            name, value, would_be = difference
            raise TailoringError(
                f"layer {position} ({name}: {value}) is to be layer {layer}, but the config of a "
                f"{config.model_type} model makes that {name}: {would_be}"
            )
    return made


def _renumber(
    fields: dict[str, Any], positions: Sequence[int], chosen: Mapping[str, frozenset[int]]
) -> None:
    """Change indices and counts of layers in `fields` to those of the result."""
    for name, layers in chosen.items():
        kept = [index for index, position in enumerate(positions) if position in layers]
        if name in _INDEX_LISTS:
            fields[name] = kept
        elif name == _SPARSE_STEP:
            fields |= {_SPARSE_STEP: 1, "mlp_only_layers": kept}
    own = _per_layer_config(fields)
    if own:
        fields["per_layer_config"] = {
            str(index): own[position] for index, position in enumerate(positions) if position in own
        }
    for name in (*_PREFIX_COUNTS, *_CLAMPED):
        if not isinstance(fields.get(name), int):
            continue
        first = [position < fields[name] for position in positions]
        if name in chosen and first != sorted(first, reverse=True):
            raise TailoringError(
                f"{fields['model_type']} has dense layers only before its expert layers ({name}), "
                "but here a dense layer comes after an expert one; keep their order"
            )
        fields[name] = sum(first)


def refuse_unsupported(config: PreTrainedConfig) -> None:
    """Refuse a model whose layers can't be cut, or whose config can't express a cut.

    Of a multimodal model, its language model is checked.

    Raises:
        FamilyError: The reason, in one sentence.
    """
    reason = next(_reasons(text_config(config)), None)
    if reason is not None:
        raise FamilyError(f"models of type {config.model_type!r} are not supported: {reason}")


def _reasons(config: PreTrainedConfig) -> Iterator[str]:
    """Reasons to refuse a model, by its type first and then by its fields."""
    fields = config.to_dict()
    if config.is_encoder_decoder:
        yield "it is an encoder with a decoder; only decoders are tailored"
    inner = [name for name in config.sub_configs if name.endswith("_config") and fields.get(name)]
    if inner and layers_field(config) not in fields:
        yield (
            f"it is made of several models ({', '.join(inner)}), which are not taken apart; "
            "save its language model alone and name that folder"
        )
    for reason, types in facts().refused.items():
        if config.model_type in types:
            yield facts().reasons[reason]
    yield from _dependence(fields)
    yield from _recurrence(config, fields)
    yield from _unknown_fields(config, fields)


def _dependence(fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields by which a layer depends on other layers, on its number, or on other texts."""
    reasons = facts().reasons
    for name in _SHARING:
        if fields.get(name):
            yield f"{name} is {fields[name]}, so its layers share weights or state"
    if fields.get("per_layer_config") and not fields["model_type"].startswith("gemma4"):
        yield "per_layer_config is set, which the model itself does not read"
    if "shared" in (fields.get("indexer_types") or ()):
        yield "some layers use the index of the layer before (indexer_types: shared)"
    if fields.get("scale_attn_by_inverse_layer_idx"):
        yield f"{reasons['numbered']} (scale_attn_by_inverse_layer_idx)"
    if fields.get("alibi"):
        yield f"{reasons['alibi']}; only a config with alibi: false can be tailored"
    for name in _CHOSEN_TOKENS:
        if fields.get(name):
            yield (
                "each token attends to a chosen few of a row, also of other texts packed into it "
                f"({name} is {fields[name]})"
            )


def _recurrence(config: PreTrainedConfig, fields: Mapping[str, Any]) -> Iterator[str]:
    for name in _per_layer_lists(config, fields):
        for value in fields[name]:
            if isinstance(value, str) and _RECURRENT_KINDS.search(value):
                yield f"{facts().reasons['recurrent']} ({name} names {value!r})"


def _unknown_fields(config: PreTrainedConfig, fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields that look per layer and are not known."""
    followed = (*_INDEX_LISTS, *_PREFIX_COUNTS, *_CLAMPED, _SPARSE_STEP)
    known = (*followed, *_per_layer_lists(config, fields))
    for name in own_fields(config):
        value, explicit = fields.get(name), fields.get(facts().patterns.get(name, ""))
        if name in known or _NOT_PER_LAYER.search(name) or not _LOOKS_PER_LAYER.search(name):
            continue
        if value and isinstance(value, int | list | tuple) and explicit is None:
            yield f"{name} is {value!r} in its config, and it is not known how that follows a cut"


def layers_field(config: PreTrainedConfig) -> str:
    """The name of the field with the number of layers."""
    return str(config.attribute_map.get("num_hidden_layers", "num_hidden_layers"))


def own_fields(config: PreTrainedConfig) -> tuple[str, ...]:
    """Fields that the architecture's own config class declares."""
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    return tuple(field.name for field in dataclasses.fields(config) if field.name not in common)


def _per_layer_lists(config: PreTrainedConfig, fields: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of the fields that hold one entry a layer."""
    n_layers = n_layers_of(config)
    return tuple(
        name
        for name in own_fields(config)
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
