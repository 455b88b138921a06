"""Leave out heads and FFN neurons that contribute nothing, so that a stock model is narrower.

A kv-group whose columns of ``o_proj`` are zero, and a neuron whose column of ``down_proj`` is zero,
can be left out without any change of the outputs. A stock config has one number of heads and one of
neurons for all layers: as many are left out as are idle in every layer; further zeros stay.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from gptailor.core.tailoring import Tailoring
from gptailor.errors import FamilyError
from gptailor.family import Family
from gptailor.family.empty_model import skeleton_of
from gptailor.family.family import layer_weights
from gptailor.family.gated_layer import DOWN, OUT, GatedLayer

__all__ = ["Narrowing", "head_counts", "idle_parameters", "narrowing"]

_ANY_HEADS = ("mistral", "qwen2", "qwen3")  # model types whose configs take any number of heads


@dataclass(frozen=True, slots=True)
class Narrowing:
    """The kv-groups and neurons that each layer keeps, as many in each."""

    sizes: GatedLayer  # before
    groups: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]

    def config(self, config: PreTrainedConfig) -> PreTrainedConfig:
        """A copy of a config with the smaller numbers of heads and neurons."""
        n_groups = len(self.groups[0])
        fields = config.to_dict() | {
            "num_attention_heads": n_groups * (self.sizes.n_heads // self.sizes.n_groups),
            "num_key_value_heads": n_groups,
            "head_dim": self.sizes.head_dim,
            "intermediate_size": len(self.neurons[0]),
        }
        return type(config).from_dict(fields)

    def layer(self, index: int, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of the layer at `index` of the result without what is left out."""
        return self.sizes.part(tensors, self.groups[index], self.neurons[index])

    def weights(self, weights: Mapping[str, Tensor], path: str) -> dict[str, Tensor]:
        """All tensors of the smaller model, by full names; `path` is its list of layers."""
        narrow = {n: t for n, t in weights.items() if not n.startswith(f"{path}.")}
        for index in range(len(self.groups)):
            prefix = f"{path}.{index}."
            own = {n.removeprefix(prefix): t for n, t in weights.items() if n.startswith(prefix)}
            narrow |= {f"{prefix}{name}": t for name, t in self.layer(index, own).items()}
        return narrow

    @property
    def n_parameters(self) -> int:
        """How many parameters are left out, in all layers together."""
        groups = self.sizes.n_groups - len(self.groups[0])
        neurons = self.sizes.n_neurons - len(self.neurons[0])
        each = groups * self.sizes.group_parameters + neurons * self.sizes.neuron_parameters
        return each * len(self.groups)

    def __str__(self) -> str:
        n_heads = len(self.groups[0]) * (self.sizes.n_heads // self.sizes.n_groups)
        return (
            f"Each layer has {n_heads} of {self.sizes.n_heads} attention heads and "
            f"{len(self.neurons[0])} of {self.sizes.n_neurons} FFN neurons; those left out "
            "contributed nothing"
        )


def head_counts(config: PreTrainedConfig, sizes: GatedLayer) -> tuple[int, ...]:
    """Numbers of kv-groups that a stock model of this config can have, in ascending order.

    Configs such as Llama's take only numbers of heads that divide the hidden size; a model that
    makes heads of hidden size / number of heads, whatever `head_dim` says, keeps all of them.
    """
    if not _takes_head_dim(config, sizes):
        return (sizes.n_groups,)
    each = sizes.n_heads // sizes.n_groups
    return tuple(
        n_groups
        for n_groups in range(1, sizes.n_groups + 1)
        if config.model_type in _ANY_HEADS or sizes.hidden % (n_groups * each) == 0
    )


def _takes_head_dim(config: PreTrainedConfig, sizes: GatedLayer) -> bool:
    wide = 2 * sizes.head_dim
    wider = type(config).from_dict(config.to_dict() | {"head_dim": wide})
    shapes = skeleton_of(wider, torch.float32).state_dict()  # no weights
    found = {tensor.shape[1] for name, tensor in shapes.items() if name.endswith(OUT)}
    return found == {sizes.n_heads * wide}


def narrowing(family: Family, tailoring: Tailoring) -> Narrowing | None:
    """Find kv-groups and neurons to leave out, as many in every layer; None if there are none.

    A model is narrowed only where every layer has fitted tensors, and not where its layers can't be
    taken apart or it belongs to a multimodal model.
    """
    found = None if family.multimodal_wrapper is not None else _used(family, tailoring)
    if found is None:
        return None
    sizes, groups, neurons = found
    most = max(map(len, groups))
    able = [count for count in head_counts(family.config, sizes) if count >= most]
    n_groups, n_neurons = min(able, default=sizes.n_groups), max(1, *map(len, neurons))
    if (n_groups, n_neurons) == (sizes.n_groups, sizes.n_neurons):
        return None
    return Narrowing(
        sizes,
        tuple(_kept(used, n_groups, sizes.n_groups) for used in groups),
        tuple(_kept(used, n_neurons, sizes.n_neurons) for used in neurons),
    )


def idle_parameters(family: Family, tailoring: Tailoring) -> int:
    """Parameters of all kv-groups and neurons that contribute nothing, in any layer.

    0 unless every layer has fitted tensors.
    """
    found = _used(family, tailoring)
    if found is None:
        return 0
    sizes, groups, neurons = found
    return sum(
        (sizes.n_groups - len(of_groups)) * sizes.group_parameters
        + (sizes.n_neurons - len(of_neurons)) * sizes.neuron_parameters
        for of_groups, of_neurons in zip(groups, neurons, strict=True)
    )


def _used(
    family: Family, tailoring: Tailoring
) -> tuple[GatedLayer, list[tuple[int, ...]], list[tuple[int, ...]]] | None:
    """The sizes of a layer, and of each the kv-groups and the neurons that contribute."""
    if any(spec.fitted is None for spec in tailoring.layers):
        return None
    groups, neurons = [], []
    for spec in tailoring.layers:
        tensors = layer_weights(family, spec, family.dtype)
        try:
            sizes = GatedLayer.of(family.config, tensors)
        except FamilyError:
            return None
        heads = tensors[OUT].reshape(sizes.hidden, sizes.n_groups, -1)
        groups.append(_nonzero(heads.abs().amax(-1)))
        neurons.append(_nonzero(tensors[DOWN]))
    return sizes, groups, neurons


def _nonzero(columns: Tensor) -> tuple[int, ...]:
    """The columns of (H, n) that are not all zero."""
    return tuple((columns != 0).any(0).nonzero().flatten().tolist())


def _kept(used: tuple[int, ...], n_kept: int, n_all: int) -> tuple[int, ...]:
    """The columns in use, and the first of the others until there are `n_kept`, in order."""
    others = [column for column in range(n_all) if column not in set(used)]
    return tuple(sorted([*used, *others[: n_kept - len(used)]]))
