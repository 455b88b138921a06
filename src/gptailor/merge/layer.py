"""Merging a whole layer: every tensor by its name, as a LayerSpec says.

Knows nothing of what a tensor's name means, nor of where the tensors come from.
"""

import hashlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from gptailor.core.merge_spec import MERGE_METHODS
from gptailor.core.tailoring import LayerSpec
from gptailor.errors import MergeError
from gptailor.merge.apply import merge_named

__all__ = ["merge_layer"]

_BASE = "the base"


def merge_layer(
    spec: LayerSpec,
    sources: Sequence[Mapping[str, Tensor]],
    base: Mapping[str, Tensor] | None,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Make the tensors of one layer, or of one part outside the layers.

    Computed in float32 and cast once. A tensor that all inputs share in memory is handed on as it
    is: equal inputs give themselves back. Methods with a seed use one of their own for each tensor,
    told by the spec's seed, its position and the tensor's name, so that layers and weights are
    masked independently and the order of the names is without meaning.

    Args:
        spec: The sources, the method and its parameters.
        sources: The tensors of ``spec.sources``, in that order, by their name in the layer.
        base: The tensors of ``spec.base``; None where the method needs none.
        dtype: Of the merged tensors.

    Returns:
        The layer's tensors; with a single source, that source's own, not copied. Tensors that are
        not floating point are the first source's.

    Raises:
        MergeError: Names, shapes or values do not fit; names the tensor and the source.
    """
    if len(sources) != len(spec.sources):
        raise MergeError(f"{spec} needs {len(spec.sources)} sources, but got {len(sources)}")
    if spec.method is None:
        return dict(sources[0])
    used_base = base if MERGE_METHODS[spec.method].needs_base else None
    if MERGE_METHODS[spec.method].needs_base and base is None:
        raise MergeError(f"{spec} merges differences from {spec.base}, but got no base")
    named = dict(zip(map(str, spec.sources), sources, strict=True))
    _refuse_other_names(named if used_base is None else named | {_BASE: used_base})
    return {
        name: _merged(
            spec,
            name,
            {source: tensors[name] for source, tensors in named.items()},
            None if used_base is None else used_base[name],
            dtype,
        )
        for name in sources[0]
    }


def _refuse_other_names(named: Mapping[str, Mapping[str, Tensor]]) -> None:
    first, *others = named
    for other in others:
        for name in sorted(named[first].keys() ^ named[other].keys()):
            has, lacks = (first, other) if name in named[first] else (other, first)
            raise MergeError(
                f"{name}: {has} has this tensor but {lacks} does not; they can't merge"
            )


def _merged(
    spec: LayerSpec,
    name: str,
    tensors: Mapping[str, Tensor],
    base: Tensor | None,
    dtype: torch.dtype,
) -> Tensor:
    first, *others = [*tensors.values(), *([] if base is None else [base])]
    if not first.is_floating_point():
        return _only(name, tensors)
    if all(_is_same(first, other) for other in others):
        return first.to(dtype)
    facts, params = MERGE_METHODS[str(spec.method)], dict(spec.params)
    if "seed" in params:
        params["seed"] = _seed(params["seed"], spec.position, name)
    try:
        return merge_named(facts, tensors, base, params).to(dtype)
    except MergeError as error:
        raise MergeError(f"{name}: {error}") from None


def _only(name: str, tensors: Mapping[str, Tensor]) -> Tensor:
    first, *others = tensors
    for other in others:
        if tensors[other].dtype != tensors[first].dtype or not torch.equal(
            tensors[other], tensors[first]
        ):
            raise MergeError(
                f"{name}: {first} and {other} differ, and {tensors[first].dtype} can't be merged; "
                "take this layer from one source"
            )
    return tensors[first]


def _is_same(left: Tensor, right: Tensor) -> bool:
    """Whether two tensors are one in memory."""
    return left is right or (
        left.numel() > 0
        and left.data_ptr() == right.data_ptr()
        and (left.device, left.dtype, left.shape, left.stride())
        == (right.device, right.dtype, right.shape, right.stride())
    )


def _seed(seed: object, position: int, name: str) -> int:
    """A seed for one tensor, the same on every machine, within the limits of the parameter."""
    digest = hashlib.sha256(f"{seed}/{position}/{name}".encode()).digest()
    return int.from_bytes(digest[:4], "big") >> 1
