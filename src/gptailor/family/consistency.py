"""Compare a variant with the base: architecture, sizes, rotary embedding, vocabulary, tensors.

Every difference is reported at once, each with the file and both values.
"""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.family.layout import Layout
from gptailor.family.members import OpenedMember
from gptailor.family.vocabulary import match_rows, row_tensors
from gptailor.family.weight_files import MAX_LISTED, listed

__all__ = ["config_problems", "fitted", "value_problems"]

# fields that may differ: the weights mean the same
_IGNORED = frozenset(
    [
        *("attention_dropout", "attn_pdrop", "embd_pdrop", "hidden_dropout", "mlp_dropout"),
        *("classifier_dropout", "hidden_dropout_prob", "resid_pdrop", "initializer_range"),
        *("bos_token_id", "eos_token_id", "pad_token_id", "sep_token_id", "unk_token_id"),
        *("output_router_logits", "router_aux_loss_coef", "router_jitter_noise"),
        *("max_position_embeddings", "n_positions", "pretraining_tp", "use_cache"),
        *("tie_word_embeddings", "vocab_size"),  # compared by themselves
    ]
)
_NOTED = ("max_position_embeddings", "n_positions")


def config_problems(
    name: str, where: str, config: PreTrainedConfig, base: PreTrainedConfig
) -> list[str]:
    """Fields of the configs that differ and must not, a sentence each."""
    if config.model_type != base.model_type:
        return [
            f"variant {name!r}: {where} is a {config.model_type} model but the base is "
            f"{base.model_type}; all variants of a family must share one architecture"
        ]
    common = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    theirs, ours = config.to_dict(), base.to_dict()
    fields = [field.name for field in dataclasses.fields(base) if field.name not in common]
    layers = str(base.attribute_map.get("num_hidden_layers", "num_hidden_layers"))
    if theirs.get(layers) != ours.get(layers):  # lists of another length would only repeat it
        return [_field_problem(name, where, layers, (theirs.get(layers), ours.get(layers)))]
    return [
        _field_problem(name, where, field, (theirs.get(field), ours.get(field)))
        for field in fields
        if field not in _IGNORED and not _same(theirs.get(field), ours.get(field))
    ]


def fitted(
    name: str, member: OpenedMember, base: OpenedMember, layout: Layout
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Fit a variant's weights to the base's vocabulary and tying, where that is sound.

    Args:
        name: The variant's.
        member: The variant, opened.
        base: The base, opened.
        layout: The base's.

    Returns:
        The weights; problems, one sentence each; notes, one sentence each.
    """
    problems = config_problems(name, member.location, member.config, base.config)
    if member.config.model_type != base.config.model_type:
        return {}, problems, []
    if layout.embedding not in member.state:
        return {}, problems + _tensor_problems(name, member.location, member.state, base.state), []
    sizes = [state[layout.embedding].shape[0] for state in (member.state, base.state)]
    tokenizers = (member.tokenizer, base.tokenizer)
    matching, token_problems = match_rows(name, member.location, tokenizers, (sizes[0], sizes[1]))
    problems += token_problems
    state, tie_problems = _tied_as(name, member, layout)
    notes = _notes(name, member, base)
    if matching is None:
        return {}, problems + tie_problems, []
    notes += matching.notes
    for key in row_tensors(layout):
        if key in state and key in base.state and state[key].shape[1:] == base.state[key].shape[1:]:
            state[key] = matching.applied(state[key], base.state[key])
    return (
        state,
        problems + tie_problems + _tensor_problems(name, member.location, state, base.state),
        notes,
    )


def value_problems(name: str, where: str, state: Mapping[str, Tensor]) -> list[str]:
    """Tensors of a member that hold NaN or infinity, as a sentence."""
    bad = [key for key, tensor in state.items() if not _finite(tensor)]
    if not bad:
        return []
    dtype = str(state[bad[0]].dtype).removeprefix("torch.")
    hint = "; it ends at 65504, take bfloat16" if dtype == "float16" else ""
    return [
        f"member {name!r}: {where}: {len(bad)} tensors hold values that are not finite "
        f"({listed(bad)}) in {dtype}{hint}"
    ]


def _finite(tensor: Tensor) -> bool:
    if not tensor.is_floating_point() or tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN is passed on; no mask of the tensor's size is made
    return bool(torch.isfinite(low)) and bool(torch.isfinite(high))


def _tied_as(
    name: str, member: OpenedMember, layout: Layout
) -> tuple[dict[str, Tensor], list[str]]:
    """Add a head where the base has its own, and drop it where the base has none."""
    state = dict(member.state)
    if member.tied == layout.tied:
        return state, []
    if not layout.tied:
        state[layout.head] = state[layout.embedding]
        return state, [
            f"variant {name!r}: {member.location} uses its embedding as the head "
            "(tie_word_embeddings) but the base has a head of its own; untie it and save it again"
        ]
    head = state.pop(layout.head, None)
    if head is None or torch.equal(head, state[layout.embedding]):
        return state, []
    return state, [
        f"variant {name!r}: {member.location} has a head ({layout.head}) that is not its "
        "embedding, but the base uses its embedding as the head (tie_word_embeddings); "
        "tie the variant"
    ]


def _tensor_problems(
    name: str, where: str, state: Mapping[str, Tensor], base: Mapping[str, Tensor]
) -> list[str]:
    problems = []
    for names, word in (
        (sorted(base.keys() - state.keys()), "lacks"),
        (sorted(state.keys() - base.keys()), "has, and the base has not,"),
    ):
        if names:
            problems.append(
                f"variant {name!r}: {where} {word} {len(names)} tensors ({listed(names)})"
            )
    shapes = [
        f"variant {name!r}: {where}: tensor {key} has shape {tuple(tensor.shape)} but the base's "
        f"has {tuple(base[key].shape)}"
        for key, tensor in sorted(state.items())
        if key in base and tensor.shape != base[key].shape
    ]
    n_more = len(shapes) - MAX_LISTED
    if n_more > 0:
        shapes[MAX_LISTED:] = [f"variant {name!r}: and {n_more} more tensors"]
    return problems + shapes


def _notes(name: str, member: OpenedMember, base: OpenedMember) -> list[str]:
    theirs, ours = member.config.to_dict(), base.config.to_dict()
    notes = [
        f"variant {name!r} says {field} {theirs.get(field)} and the base {ours[field]}; "
        "the base's is used"
        for field in _NOTED
        if field in ours and theirs.get(field) != ours[field]
    ]
    if member.tokenizer is None and base.tokenizer is not None:
        notes.append(f"variant {name!r} has no tokenizer; its rows are taken to be the base's")
    return notes


def _field_problem(name: str, where: str, field: str, values: tuple[Any, Any]) -> str:
    return (
        f"variant {name!r}: {where}: {field} is {values[0]!r} but the base has {values[1]!r}; "
        "all variants of a family must share one architecture"
    )


def _same(one: Any, two: Any) -> bool:
    """Equal, with floats as close as a GGUF file's float32 keeps them."""
    if isinstance(one, dict) and isinstance(two, dict):
        return one.keys() == two.keys() and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list | tuple) and isinstance(two, list | tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    numbers = isinstance(one, int | float) and isinstance(two, int | float)
    if numbers and not isinstance(one, bool) and not isinstance(two, bool):
        return math.isclose(one, two, rel_tol=1e-6)
    return bool(one == two)
