"""Take as many parameters out of the width of every layer as a cut of whole layers would remove.

Layer by layer, since later layers are pruned on the outputs of those pruned before them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gptailor.baselines.context import BaselineContext
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.engine.streams import Streams
from gptailor.errors import FamilyError
from gptailor.export.narrow import head_counts
from gptailor.family.family import layer_weights
from gptailor.family.gated_layer import DOWN, OUT, GatedLayer

__all__ = ["Pruner", "Width", "gram_of", "inputs_of", "pruned", "sizes_of", "width_of"]

_CHUNK_TOKENS = 4096

Pruner = Callable[[Tensor, Tensor, int, int], Tensor]
"""Makes blocks of columns zero, and may change the others to make up for them.

Its arguments are the weight of a linear map, (H, F) in float32; inputs of that map, (T, F) in
float32; the number of columns of a block; and how many of the F / columns blocks are removed.
"""


@dataclass(frozen=True, slots=True)
class Width:
    """How many kv-groups and neurons are removed from one layer."""

    n_groups: int
    n_neurons: int


def sizes_of(context: BaselineContext) -> GatedLayer:
    """The sizes of the family's layers.

    Raises:
        FamilyError: Heads and neurons can't be taken out of them, or they are not all of one size.
    """
    family, member = context.statistics.engine.family, context.statistics.member
    layers = [family.layer(Source(member, position)) for position in range(family.n_layers)]
    first, *others = dict.fromkeys(GatedLayer.of(family.config, layer) for layer in layers)
    if others:
        raise FamilyError(
            f"{family.config.model_type}: its layers are not all of one size; use a baseline that "
            "cuts whole layers"
        )
    return first


def width_of(context: BaselineContext, share: float, *, heads: bool = True) -> Width:
    """Divide a share of a layer's parameters, norms among them, between its heads and neurons.

    The same share of the kv-groups is removed, rounded to a number that a stock model can have.
    Groups are large, so the neurons make up the difference; at least one of each stays. Without
    `heads` only neurons are removed.
    """
    family, sizes = context.statistics.engine.family, sizes_of(context)
    kept = sizes.n_groups
    if heads:
        counts = reversed(head_counts(family.config, sizes))  # of two that are as near, more stay
        kept = min(counts, key=lambda n: abs(n - (1 - share) * sizes.n_groups))
    left = share * family.layer_parameters[0] - (sizes.n_groups - kept) * sizes.group_parameters
    n_neurons = min(max(0, round(left / sizes.neuron_parameters)), sizes.n_neurons - 1)
    return Width(sizes.n_groups - kept, n_neurons)


def pruned(context: BaselineContext, widths: Sequence[Width], prune: Pruner) -> Tailoring:
    """Prune the layers in turn, each on the outputs of the pruned ones before it.

    In each layer ``o_proj`` comes first; the inputs of ``down_proj`` are those after it is pruned.
    """
    statistics = context.statistics
    family, sizes = statistics.engine.family, sizes_of(context)
    streams = Streams(statistics.engine, statistics.rows)
    states, specs = streams.embedded(statistics.whole), []
    for whole, width in zip(statistics.whole.layers, widths, strict=True):
        spec, fitted = whole, {}
        parts = ((OUT, sizes.group_columns, width.n_groups), (DOWN, 1, width.n_neurons))
        for name, n_columns, n_removed in parts:
            weight = layer_weights(family, whole, family.dtype)[name]
            if n_removed:
                inputs = inputs_of(streams, spec, states, name)
                weight = prune(weight.to(inputs), inputs, n_columns, n_removed).to(weight)
                statistics.spend(streams.n_tokens)
            fitted[name] = weight
            family.fitted.drop([spec.fitted])  # of the part before
            spec = whole.with_repair(fitted=family.fitted.add(fitted))
        specs.append(spec)
        states = streams.run(spec, states)
    statistics.spend(streams.n_tokens * len(specs))
    return context.of(specs)


def inputs_of(streams: Streams, spec: LayerSpec, states: Sequence[Tensor], name: str) -> Tensor:
    """The inputs of a linear map at all tokens but padding, (T, F) in float32.

    First tokens of rows count, other than in means of cosines: a few neurons, active on them alone,
    make the large streams that all later attention depends on. `name` is that of the map's weight.
    """
    found = streams.tapped(spec, states, name.removesuffix(".weight"))
    counted = streams.real
    return torch.cat([x[mask].float() for (x, _), mask in zip(found, counted, strict=True)])


def gram_of(inputs: Tensor) -> Tensor:
    """``X^T X`` of inputs (T, F), float64 on the CPU."""
    gram = torch.zeros(inputs.shape[1], inputs.shape[1], dtype=torch.float64)
    for start in range(0, len(inputs), _CHUNK_TOKENS):  # float32 sums of few, added in float64
        some = inputs[start : start + _CHUNK_TOKENS]
        gram += (some.T @ some).double().cpu()
    return gram
