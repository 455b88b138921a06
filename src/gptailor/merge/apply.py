"""Calling a merge method by its name: checks in, float32 inside, float32 out.

Knows the methods by their facts and functions alone, and nothing of layers or models. Importing it
imports the file of every method.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gptailor.core.merge_spec import MergeSpec
from gptailor.errors import MergeError
from gptailor.merge import (  # noqa: F401  # each binds its functions to their names
    breadcrumbs,
    dare,
    linear,
    model_stock,
    slerp,
    task_arithmetic,
    ties,
)
from gptailor.merge.method import FUNCTIONS
from gptailor.merge.parameters import facts_of, filled

__all__ = ["merge", "merge_named"]


def merge(
    name: str,
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    **params: float | Sequence[float],
) -> Tensor:
    """Merge tensors that stand for one weight, by the method called `name`.

    Args:
        name: A method of `gptailor.core.merge_spec.MERGE_METHODS`.
        tensors: One per source, of one shape, on one device, of any float dtype. A single one is
            taken, not merged.
        base: The same weight in the base; methods that take no differences ignore it.
        **params: The method's parameters; those not given take their defaults.

    Returns:
        A float32 tensor of that shape, computed in float32; the inputs are untouched. It shares
        memory with an input only where a single float32 tensor was given.

    Raises:
        MergeError: The name, a parameter or a tensor is invalid.

    Example:
        >>> merge("linear", [torch.tensor([0.0]), torch.tensor([4.0])], weights=[3, 1])
        tensor([1.])
    """
    facts = facts_of(name)
    if isinstance(tensors, Tensor):
        raise MergeError(f"{name}: tensors must be a list of tensors, one a source, not one tensor")
    named = {f"tensors[{index}]": tensor for index, tensor in enumerate(tensors)}
    return merge_named(facts, named, base, params)


@torch.no_grad()
def merge_named(
    facts: MergeSpec,
    tensors: Mapping[str, Tensor],
    base: Tensor | None,
    params: Mapping[str, object],
) -> Tensor:
    """Merge as `merge` does, with a name for each tensor that messages can use.

    Raises:
        MergeError: A parameter or a tensor is invalid.
    """
    if not tensors:
        raise MergeError(f"{facts.name}: there is nothing to merge; give at least one tensor")
    complete = filled(facts, params, len(tensors))
    if facts.max_sources is not None and len(tensors) > facts.max_sources:
        raise MergeError(f"{facts.name} merges {facts.max_sources} tensors, not {len(tensors)}")
    merged = len(tensors) > 1
    if merged and facts.needs_base and base is None:
        raise MergeError(f"{facts.name} merges differences from a base; give the base's tensor")
    inputs = dict(tensors)
    if merged and facts.needs_base and base is not None:
        inputs["the base"] = base
    floats = _as_float32(facts, inputs)
    if not merged:
        return floats[0]
    if facts.needs_base:
        return FUNCTIONS[facts.name](floats[:-1], floats[-1], **complete)
    return FUNCTIONS[facts.name](floats, **complete)


def _as_float32(facts: MergeSpec, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    first = next(iter(tensors))
    floats = []
    for name, tensor in tensors.items():
        _refuse_misfit(facts, name, tensor)
        if tensor.shape != tensors[first].shape:
            raise MergeError(
                f"{facts.name}: {name} has shape {tuple(tensor.shape)} but {first} has "
                f"{tuple(tensors[first].shape)}; tensors to be merged must share one shape"
            )
        if tensor.device != tensors[first].device:
            raise MergeError(
                f"{facts.name}: {name} is on {tensor.device} but {first} is on "
                f"{tensors[first].device}; move them to one device"
            )
        floats.append(tensor.detach().to(torch.float32))
        if not _finite(floats[-1]):
            raise MergeError(
                f"{facts.name}: {name} has NaN or infinite values; its checkpoint may be damaged"
            )
    return floats


def _refuse_misfit(facts: MergeSpec, name: str, tensor: object) -> None:
    if not isinstance(tensor, Tensor):
        raise MergeError(f"{facts.name}: {name} is a {type(tensor).__name__}, not a tensor")
    if not tensor.is_floating_point():
        raise MergeError(
            f"{facts.name}: {name} is of {tensor.dtype}; only floating point tensors can be merged"
        )
    if tensor.layout is not torch.strided or tensor.is_meta:
        raise MergeError(f"{facts.name}: {name} is sparse or has no data; give a plain tensor")


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN comes through; no copy, unlike isfinite
    return math.isfinite(low) and math.isfinite(high)
