"""Merge all tensors of one layer, as a LayerSpec says."""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gptailor.core.merge_spec import MergeSpec, Value, merge_spec
from gptailor.core.tailoring import LayerSpec
from gptailor.errors import MergeError
from gptailor.merge.apply import merge_named

__all__ = ["merge_layer"]


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
    return merge_named(method, tensors, base, params).to(dtype)


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
