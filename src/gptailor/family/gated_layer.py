"""Sizes of a decoder layer with gated FFN, and the tensors of a part of its heads and neurons.

A kv-group is a key-value head with the query heads that use it; a neuron is a channel of the FFN.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.errors import FamilyError

__all__ = ["DOWN", "OUT", "READERS", "GatedLayer"]

OUT, DOWN = "self_attn.o_proj.weight", "mlp.down_proj.weight"
_QUERY, _KEY_VALUE = ("self_attn.q_proj.",), ("self_attn.k_proj.", "self_attn.v_proj.")
_NEURON = ("mlp.gate_proj.", "mlp.up_proj.")
READERS = {  # a norm to the weights that read the stream through it
    "input_layernorm.weight": tuple(f"{stem}weight" for stem in (*_QUERY, *_KEY_VALUE)),
    "post_attention_layernorm.weight": tuple(f"{stem}weight" for stem in _NEURON),
}
_WHOLE = (OUT.replace("weight", "bias"), DOWN.replace("weight", "bias"))


@dataclass(frozen=True, slots=True)
class GatedLayer:
    """The sizes of one layer whose attention and FFN end in ``o_proj`` and ``down_proj``."""

    hidden: int
    head_dim: int
    n_heads: int
    n_groups: int  # key-value heads
    n_neurons: int
    group_parameters: int  # of one kv-group, with its columns of o_proj
    neuron_parameters: int

    @classmethod
    def of(cls, config: PreTrainedConfig, tensors: Mapping[str, Tensor]) -> "GatedLayer":
        """Read the sizes off a layer's tensors.

        Raises:
            FamilyError: It is not such a layer: fused projections, experts, a norm over all heads.
        """
        if missing := [
            name for name in (*itertools.chain(*READERS.values()), OUT, DOWN) if name not in tensors
        ]:
            raise _refusal(config, f"there is no {missing[0]}")
        n_heads = int(config.num_attention_heads)
        head_dim = tensors[OUT].shape[1] // n_heads
        for name, tensor in tensors.items():
            if not _divisible(name, tensor, head_dim):
                raise _refusal(config, f"{name} is not one head's or neuron's")
        n_groups = tensors["self_attn.k_proj.weight"].shape[0] // head_dim
        group = _n_parameters(tensors, _KEY_VALUE, n_groups)
        group += _n_parameters(tensors, (*_QUERY, OUT), n_groups)
        neuron = _n_parameters(tensors, (*_NEURON, DOWN), tensors[DOWN].shape[1])
        hidden, n_neurons = tensors[DOWN].shape
        return cls(hidden, head_dim, n_heads, n_groups, n_neurons, group, neuron)

    @property
    def group_columns(self) -> int:
        """Columns of o_proj that one kv-group has."""
        return self.n_heads // self.n_groups * self.head_dim

    def columns(self, groups: Sequence[int]) -> Tensor:
        """The columns of o_proj of some kv-groups, int64."""
        starts = torch.tensor(groups, dtype=torch.int64)[:, None] * self.group_columns
        return (starts + torch.arange(self.group_columns)).flatten()

    def part(
        self, tensors: Mapping[str, Tensor], groups: Sequence[int], neurons: Sequence[int]
    ) -> dict[str, Tensor]:
        """A layer's tensors with these kv-groups and neurons alone, in this order."""
        keys = replace(self, n_heads=self.n_groups).columns(groups)
        rows = {stem: self.columns(groups) for stem in _QUERY}
        rows |= dict.fromkeys(_KEY_VALUE, keys)
        rows |= dict.fromkeys(_NEURON, torch.tensor(neurons, dtype=torch.int64))
        columns = {OUT: self.columns(groups), DOWN: torch.tensor(neurons, dtype=torch.int64)}
        found = {}
        for name, tensor in tensors.items():
            index = rows.get(f"{name.rpartition('.')[0]}.", columns.get(name))
            if index is not None:
                tensor = tensor.index_select(int(name in columns), index.to(tensor.device))
            found[name] = tensor
        return found


def _refusal(config: PreTrainedConfig, why: str) -> FamilyError:
    return FamilyError(
        f"{config.model_type}: heads and neurons can't be taken out of its layers ({why}); take a "
        "model of type llama, mistral, qwen2 or qwen3"
    )


def _divisible(name: str, tensor: Tensor, head_dim: int) -> bool:
    """Whether a tensor can be divided by heads or neurons, or is the same without some of them."""
    if name.startswith((*_QUERY, *_KEY_VALUE, *_NEURON)) or name in (OUT, DOWN, *_WHOLE):
        return True
    return tensor.ndim == 1 and (not name.startswith("self_attn.") or len(tensor) == head_dim)


def _n_parameters(tensors: Mapping[str, Tensor], stems: tuple[str, ...], n_parts: int) -> int:
    """Parameters of one of `n_parts` equal parts of the tensors whose names start with a stem."""
    return sum(t.numel() for name, t in tensors.items() if name.startswith(stems)) // n_parts
