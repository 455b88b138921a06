"""Apply merge methods to tensors and to layers: checks first, then float32 arithmetic."""

import hashlib
import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gptailor.core.merge_spec import MergeSpec, Value, merge_spec, method_name
from gptailor.core.tailoring import LayerSpec
from gptailor.errors import ConfigError, MergeError

__all__ = ["merge", "merge_layer"]


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
        MergeError: The name, a parameter or a tensor is invalid, or the method's function returns
            no float32 tensor of that shape.

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
    return _merge_named(spec, named, base, params)


def merge_layer(
    spec: LayerSpec,
    sources: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor] | None,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Make the tensors of one layer or outer part.

    Computed in float32 and cast once. A tensor that all inputs share in memory is returned as it
    is. A method's ``seed`` is made anew for each tensor, from the spec's seed, its position and the
    tensor's name, so that layers and weights are masked independently and the order of the names
    has no effect.

    Args:
        spec: The sources, the method and its parameters.
        sources: The tensors of ``spec.sources``, in that order, each by its name in the layer.
        base: The tensors of ``spec.base``; None where the method needs none.
        dtype: Of the merged tensors.

    Returns:
        The layer's tensors by name; with a single source, that source's own, not copied. Tensors
        that are not floating point are the first source's.

    Raises:
        MergeError: Names, shapes or values do not fit; names the tensor and the source.
    """
    if len(sources) != len(spec.sources):
        raise MergeError(f"{spec} needs {len(spec.sources)} sources, but got {len(sources)}")
    if spec.method is None:
        return dict(sources[0])
    method = merge_spec(spec.method)
    named = dict(zip(map(str, spec.sources), sources, strict=True))
    if method.needs_base:
        if base is None:
            raise MergeError(f"{spec} merges differences from {spec.base}, but got no base")
        named["the base"] = base
    _refuse_other_names(named)
    merged = {}
    for name in sources[0]:
        params = dict(spec.params)
        if "seed" in params:
            params["seed"] = _seed(params["seed"], spec.position, name)
        tensors = {source: theirs[name] for source, theirs in named.items()}
        own = tensors.pop("the base", None)
        try:
            merged[name] = _merged(method, tensors, own, params, dtype)
        except MergeError as error:
            raise MergeError(f"{name}: {error}") from None
    return merged


def _refuse_other_names(named: Mapping[str, Mapping[str, Tensor]]) -> None:
    first, *others = named
    for other in others:
        for name in sorted(named[first].keys() ^ named[other].keys()):
            has, lacks = (first, other) if name in named[first] else (other, first)
            raise MergeError(
                f"{name}: {has} has this tensor but {lacks} does not; they can't merge"
            )


def _merged(
    method: MergeSpec,
    tensors: Mapping[str, Tensor],
    base: Tensor | None,
    params: Mapping[str, Value],
    dtype: torch.dtype,
) -> Tensor:
    (source, first), *others = tensors.items()
    if not first.is_floating_point():
        for other, tensor in others:
            if tensor.dtype != first.dtype or not torch.equal(tensor, first):
                raise MergeError(
                    f"{source} and {other} differ, and {first.dtype} can't be merged; take this "
                    "layer from one source"
                )
        return first
    inputs = [tensor for _, tensor in others] + ([] if base is None else [base])
    if all(_is_same(first, tensor) for tensor in inputs):
        return first.to(dtype)
    return _merge_named(method, tensors, base, params).to(dtype)


def _is_same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are the same memory."""
    return left is right or (
        left.numel() > 0
        and left.data_ptr() == right.data_ptr()
        and (left.device, left.dtype, left.shape, left.stride())
        == (right.device, right.dtype, right.shape, right.stride())
    )


def _seed(seed: object, position: int, name: str) -> int:
    """A seed for one tensor, from 0 to 2**31 - 1, the same on every machine."""
    digest = hashlib.sha256(f"{seed}/{position}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1


@torch.no_grad()
def _merge_named(
    spec: MergeSpec,
    tensors: Mapping[str, Tensor],
    base: Tensor | None,
    params: Mapping[str, object],
) -> Tensor:
    """Merge as `merge` does, with a name for each tensor that messages use."""
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
    for name, finite in zip(tensors, _finite(floats), strict=True):
        if not finite:
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


def _finite(tensors: Sequence[Tensor]) -> list[bool]:
    """Whether each of some tensors of one shape has finite values only; reads a device once."""
    if tensors[0].numel() == 0:
        return [True for _ in tensors]
    limits = [torch.stack(torch.aminmax(tensor)) for tensor in tensors]  # NaN is kept; no copy
    return [all(map(math.isfinite, pair)) for pair in torch.stack(limits).tolist()]
