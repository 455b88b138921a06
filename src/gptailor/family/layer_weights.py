"""The tensors of a LayerSpec: a member's own, or merged ones."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from gptailor.core.tailoring import LayerSpec
from gptailor.family import Family
from gptailor.merge import merge_layer

__all__ = ["layer_weights", "outer_weights"]

_Named = Mapping[str, Tensor]


def layer_weights(
    family: Family,
    spec: LayerSpec,
    dtype: torch.dtype,
    bring: Callable[[_Named], _Named] | None = None,
) -> _Named:
    """The tensors of one layer, by the names inside it; merged in float32, cast once.

    Args:
        family: The members.
        spec: The layer.
        dtype: Of merged tensors.
        bring: Moves a member's tensors to the device; None where they are on it.
    """
    bring = bring or (lambda tensors: tensors)
    sources = [bring(family.layer(source)) for source in spec.sources]
    base = None if spec.base is None else bring(family.layer(spec.base))
    return merge_layer(spec, sources, base, dtype)


def outer_weights(family: Family, part: str, spec: LayerSpec, dtype: torch.dtype) -> _Named:
    """The tensors of ``embedding``, ``norm`` or ``head``, by their full names."""
    sources = [family.outer_part(part, source.member) for source in spec.sources]
    base = None if spec.base is None else family.outer_part(part, spec.base.member)
    return merge_layer(spec, sources, base, dtype)
