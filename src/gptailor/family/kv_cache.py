"""Bytes that each layer keeps of a sequence while text is generated: the key-value cache."""

import torch
from transformers import DynamicCache

from gptailor.core.tailoring import BASE
from gptailor.family.empty_model import model_around
from gptailor.family.family import Family
from gptailor.family.library_calls import quiet

__all__ = ["cache_bytes"]


def cache_bytes(family: Family, *, context: int, batch: int, dtype: torch.dtype) -> tuple[int, ...]:
    """Bytes that each layer's keys and values take.

    The base reads two tokens, which shows their shapes; transformers' own cache is then filled with
    empty tensors of `context` tokens, so that a layer with a window keeps its window alone.

    Args:
        family: Its base is run.
        context: Tokens of a sequence.
        batch: Sequences.
        dtype: Of keys and values.
    """
    model = model_around(family.config, family.states[BASE], family.dtype)
    device = family.states[BASE][family.layout.embedding].device
    with quiet(), torch.inference_mode():
        tokens = torch.zeros((1, 2), dtype=torch.long, device=device)
        seen = model.to(device)(input_ids=tokens, use_cache=True).past_key_values
        full = DynamicCache(config=model.config)
        for index, layer in enumerate(seen.layers):
            keys, values = (
                torch.empty((batch, *like.shape[1:-2], context, like.shape[-1]), device="meta")
                for like in (layer.keys, layer.values)
            )
            full.update(keys, values, index)
    family.release_pages()
    return tuple(
        (layer.keys.numel() + layer.values.numel()) * dtype.itemsize for layer in full.layers
    )
