"""A tailoring's weights, put together in memory under the names that a smaller model gives them.

Taken tensors are the members' own, merged ones are made in float32 and cast once. Knows the family
and the merge methods; knows nothing of configs and files.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gptailor.core.tailoring import Tailoring
from gptailor.family import Family
from gptailor.family.layer_weights import layer_weights, outer_weights

__all__ = ["tailored_weights"]


def tailored_weights(
    family: Family, tailoring: Tailoring, *, path: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Collect every tensor of the smaller model, on the CPU.

    Args:
        family: Where the weights are.
        tailoring: Which of them, and what is made of them.
        path: Where the model keeps its layers: ``model.layers``.
        dtype: Of all floating tensors.

    Returns:
        State dict name to tensor. No two share their storage: a layer that stands twice is there
        twice, as a file must have it. A tied head is not there.
    """
    weights: dict[str, Tensor] = {}
    used: set[int] = set()
    for name, tensor in _named(family, tailoring, path, dtype):
        wanted = tensor.to("cpu", dtype if tensor.is_floating_point() else tensor.dtype)
        place = wanted.untyped_storage().data_ptr()
        weights[name] = wanted.clone() if place in used else wanted
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
