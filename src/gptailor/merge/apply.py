"""Apply a merge method to tensors: checks first, float32 arithmetic, float32 result."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gptailor.core.merge_spec import MergeSpec, merge_spec, method_name
from gptailor.errors import ConfigError, MergeError

__all__ = ["merge", "merge_named"]


def merge(
    method: str | MergeSpec,
    tensors: Sequence[Tensor],
    base: Tensor | None = None,
    **params: float | Sequence[float],
) -> Tensor:
    """Merge tensors of one weight.

    Args:
        method: A merge method or its name.
        tensors: One per source, of one shape, on one device, of any float dtype. A single one is
            returned, not merged.
        base: The same weight in the base; methods that need no base ignore it.
        **params: The method's parameters; those not given take their defaults.

    Returns:
        A float32 tensor of that shape, computed in float32; the inputs are unchanged. It shares
        memory with an input only where a single float32 tensor was given.

    Raises:
        MergeError: The name, a parameter or a tensor is invalid.

    Example:
        >>> merge("linear", [torch.tensor([0.0]), torch.tensor([4.0])], weights=[3, 1])
        tensor([1.])
    """
    try:
        spec = merge_spec(method_name(method))
    except ConfigError as error:
        raise MergeError(error.problems) from None
    if isinstance(tensors, Tensor):
        raise MergeError(
            f"{spec.name}: tensors must be a list of tensors, one per source, not one tensor"
        )
    named = {f"tensors[{index}]": tensor for index, tensor in enumerate(tensors)}
    return merge_named(spec, named, base, params)


@torch.no_grad()
def merge_named(
    spec: MergeSpec,
    tensors: Mapping[str, Tensor],
    base: Tensor | None,
    params: Mapping[str, object],
) -> Tensor:
    """Merge as `merge` does, with a name for each tensor that messages use.

    Raises:
        MergeError: A parameter or a tensor is invalid, or the method's function returns no float32
            tensor of the inputs' shape.
    """
    if not tensors:
        raise MergeError(f"{spec.name}: there is nothing to merge; give at least one tensor")
    values = spec.resolve(params, tensors)
    if len(tensors) == 1:
        return _as_float32(spec.name, tensors)[0]
    result: object
    if not spec.needs_base:
        floats = _as_float32(spec.name, tensors)
        result = spec.function(floats, **values)
    elif base is None:
        raise MergeError(f"{spec.name} merges differences from a base; give the base's tensor")
    else:
        *floats, origin = _as_float32(spec.name, {**tensors, "the base": base})
        result = spec.function(floats, origin, **values)
    shape = floats[0].shape
    if isinstance(result, Tensor) and (result.shape, result.dtype) == (shape, torch.float32):
        return result
    raise MergeError(f"{spec.name}: its function must return a float32 tensor of {tuple(shape)}")


def _as_float32(method: str, tensors: Mapping[str, Tensor]) -> list[Tensor]:
    first, like = next(iter(tensors.items()))
    floats = []
    for name, tensor in tensors.items():
        if (problem := _problem(tensor, first, like)) is not None:
            raise MergeError(f"{method}: {name} {problem}")
        floats.append(tensor.detach().to(torch.float32))
        if not _finite(floats[-1]):
            raise MergeError(
                f"{method}: {name} has NaN or infinite values; its checkpoint may be damaged"
            )
    return floats


def _problem(tensor: object, first: str, like: Tensor) -> str | None:
    """What is wrong with a tensor, alone or beside the first one."""
    if not isinstance(tensor, Tensor):
        return f"is a {type(tensor).__name__}, not a tensor"
    if not tensor.is_floating_point():
        return f"is of {tensor.dtype}; only floating point tensors can be merged"
    if tensor.layout is not torch.strided or tensor.is_meta:
        return "is sparse or has no data; give a plain tensor"
    if tensor.shape != like.shape:
        return (
            f"has shape {tuple(tensor.shape)} but {first} has {tuple(like.shape)}; tensors to be "
            "merged must share one shape"
        )
    if tensor.device != like.device:
        return f"is on {tensor.device} but {first} is on {like.device}; move them to one device"
    return None


def _finite(tensor: Tensor) -> bool:
    if tensor.numel() == 0:
        return True
    low, high = torch.aminmax(tensor)  # NaN is kept; makes no copy, unlike isfinite
    return math.isfinite(low) and math.isfinite(high)
