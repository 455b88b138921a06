"""Compare a variant with the base: architecture, sizes, rotary embedding, vocabulary, tensors."""

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.errors import listed
from gptailor.family.architecture import facts, layers_field, own_fields
from gptailor.family.family import OpenedMember
from gptailor.family.layout import Layout
from gptailor.family.vocabulary import match_rows
from gptailor.family.weight_files import MAX_LISTED

__all__ = ["fitted", "value_problems"]

_NOTED = ("max_position_embeddings", "n_positions")
_ONE_ARCHITECTURE = "all variants of a family must share one architecture"


def fitted(
    name: str, member: OpenedMember, base: OpenedMember, layout: Layout
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Fit a variant's weights to the base's vocabulary and tying, where that is sound.

    Returns:
        The weights; every problem, with both values, a sentence each; notes, a sentence each.
    """
    differing = list(_config_problems(member.config, base.config))
    problems = [*differing]
    state, notes = dict(member.state), list[str]()
    if member.config.model_type == base.config.model_type:
        if layout.embedding in state:
            state, misfits, notes = _with_base_rows(name, member, base, layout)
            problems += misfits
        if state and not differing:  # else the tensors differ because the configs do
            problems += _tensor_problems(state, base.state)
    return state, [f"variant {name!r}: {member.location}: {problem}" for problem in problems], notes


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


def _config_problems(config: PreTrainedConfig, base: PreTrainedConfig) -> Iterator[str]:
    """Fields of the configs that differ and must not."""
    if config.model_type != base.model_type:
        yield (
            f"it is a {config.model_type} model but the base is {base.model_type}; "
            f"{_ONE_ARCHITECTURE}"
        )
        return
    theirs, ours, layers = config.to_dict(), base.to_dict(), layers_field(base)
    differing = [
        field
        for field in own_fields(base)
        if field not in facts().may_differ and not _same(theirs.get(field), ours.get(field))
    ]
    # lists of another length would only repeat another number of layers
    for field in [layers] if layers in differing else differing:
        yield (
            f"{field} is {theirs.get(field)!r} but the base has {ours.get(field)!r}; "
            f"{_ONE_ARCHITECTURE}"
        )


def _with_base_rows(
    name: str, member: OpenedMember, base: OpenedMember, layout: Layout
) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """The weights with rows in the order of the base's tokens, if they match; problems; notes."""
    state, problems = _tied_as(member, layout)
    sizes = (member.state[layout.embedding].shape[0], base.state[layout.embedding].shape[0])
    matching, token_problems = match_rows(name, (member.tokenizer, base.tokenizer), sizes)
    problems = token_problems + problems
    if matching is None:
        return {}, problems, []
    bias = f"{layout.head.removesuffix('weight')}bias"
    for key in (layout.embedding, layout.head, bias):  # the tensors with one row a token
        if key in state and key in base.state and state[key].shape[1:] == base.state[key].shape[1:]:
            state[key] = matching.applied(state[key], base.state[key])
    return state, problems, [*_notes(name, member, base), *matching.notes]


def _tied_as(member: OpenedMember, layout: Layout) -> tuple[dict[str, Tensor], list[str]]:
    """Add a head where the base has its own, and drop it where the base has none."""
    state = dict(member.state)
    if member.tied and not layout.tied:
        state[layout.head] = state[layout.embedding]
        return state, [
            "it uses its embedding as the head (tie_word_embeddings) but the base has a head of "
            "its own; untie it and save it again"
        ]
    head = state.pop(layout.head, None) if layout.tied else None
    if head is None or torch.equal(head, state[layout.embedding]):
        return state, []
    return state, [
        f"it has a head ({layout.head}) that is not its embedding, but the base uses its "
        "embedding as the head (tie_word_embeddings); tie the variant"
    ]


def _tensor_problems(state: Mapping[str, Tensor], base: Mapping[str, Tensor]) -> list[str]:
    lacking, unknown = sorted(base.keys() - state.keys()), sorted(state.keys() - base.keys())
    problems = [
        f"it {word} {len(names)} tensors ({listed(names)})"
        for names, word in ((lacking, "lacks"), (unknown, "has, and the base has not,"))
        if names
    ]
    shapes = [
        f"tensor {key} has shape {tuple(tensor.shape)} but the base's has {tuple(base[key].shape)}"
        for key, tensor in sorted(state.items())
        if key in base and tensor.shape != base[key].shape
    ]
    n_more = len(shapes) - MAX_LISTED
    more = [f"and {n_more} more tensors have another shape"] if n_more > 0 else []
    return [*problems, *shapes[:MAX_LISTED], *more]


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
