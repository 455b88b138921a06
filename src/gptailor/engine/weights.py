"""What a LayerSpec's weights are: a member's own tensors, or merged ones.

Where the family and the merge methods meet; knows nothing of modules, batches and files.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from gptailor.family import Family
from gptailor.merge import merge_layer
from gptailor.tailoring import LayerSpec

__all__ = ["layer_weights", "part_weights"]


def layer_weights(family: Family, spec: LayerSpec, dtype: torch.dtype) -> Mapping[str, Tensor]:
    """The tensors of one layer, by the names inside it; merged in float32, cast once."""
    sources = [family.layer(source) for source in spec.sources]
    base = None if spec.base is None else family.layer(spec.base)
    return merge_layer(spec, sources, base, dtype)


def part_weights(
    family: Family, part: str, spec: LayerSpec, dtype: torch.dtype
) -> Mapping[str, Tensor]:
    """The tensors of ``embedding``, ``norm`` or ``head``, by their full names."""
    sources = [family.part(part, source.member) for source in spec.sources]
    base = None if spec.base is None else family.part(part, spec.base.member)
    return merge_layer(spec, sources, base, dtype)
