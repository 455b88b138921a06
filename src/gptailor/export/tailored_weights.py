"""The weights of a tailoring in memory, by the names that they have in the smaller model."""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptailor.core.tailoring import Tailoring
from gptailor.family import Family
from gptailor.family.family import layer_weights, outer_weights

__all__ = ["tailored_weights"]


def tailored_weights(
    family: Family, tailoring: Tailoring, *, path: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Collect every tensor of the smaller model, on the CPU, by its name in the state dict.

    No two share their storage, as a file requires: a layer that is used twice is copied. A tied
    head is left out. `path` is the model's list of layers, such as ``model.layers``; `dtype` is
    that of all floating point tensors.
    """
    weights: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in _named(family, tailoring, path, dtype):
        wanted = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        shared = wanted.untyped_storage().data_ptr() in used
        weights[name] = wanted.clone() if shared else wanted
        used.add(weights[name].untyped_storage().data_ptr())
    return weights


def _named(
    family: Family, tailoring: Tailoring, path: str, dtype: torch.dtype
) -> Iterator[tuple[str, Tensor]]:
    for part, spec in tailoring.outer_parts.items():
        yield from outer_weights(family, part, spec, dtype).items()
    for index, spec in enumerate(tailoring.layers):
        for name, tensor in layer_weights(family, spec, dtype).items():
            yield f"{path}.{index}.{name}", tensor
