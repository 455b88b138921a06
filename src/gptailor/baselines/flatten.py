"""FlattenGPT: make one layer of adjacent ones that run side by side on the stream of the first.

https://arxiv.org/abs/2602.08858. Closed form: the result is a stock layer of the usual width.
"""

from collections.abc import Mapping, Sequence
from typing import Annotated

import torch
from torch import Tensor

from gptailor.baselines.context import BaselineContext
from gptailor.baselines.width.layerwise import gram_of, inputs_of
from gptailor.core.params import Range
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.streams import Streams
from gptailor.errors import FamilyError
from gptailor.family import Family
from gptailor.family.architecture import norm_offset
from gptailor.family.family import layer_weights
from gptailor.family.gated_layer import DOWN, OUT, READERS, GatedLayer

__all__ = ["FlatMerge", "flatten", "joined", "leverage_scores", "nystrom", "without_gains"]

Tensors = Mapping[str, Tensor]

_OVER_ROWS = ("self_attn.o_proj.", "mlp.down_proj.")  # the sum of all parts: joined by columns


def flatten(
    context: BaselineContext, *, ridge: Annotated[float, Range(1e-9, 1000.0)] = 10.0
) -> Tailoring:
    """Flatten the layers whose streams are most alike, until as many are gone as are to be cut.

    Of all neighbours, those are put together whose first layers' input streams have the highest
    mean cosine; a group is compared by its own first layer. Each group becomes one layer
    (`FlatMerge`), fitted on the streams of the whole member.

    Args:
        context: What is to be cut.
        ridge: Of the FFN's Gram matrix, in units of its mean eigenvalue.

    Differs from the paper: whole kv-groups are chosen, not single heads.

    Raises:
        ConfigError: No neighbours are left that may be merged.
        FamilyError: The architecture's layers can't be joined.
    """
    statistics = context.statistics
    cosines = statistics.similarities().cosines
    groups = [[layer] for layer in range(context.space.n_layers)]
    for _ in range(context.space.n_removed):
        pairs = context.neighbours(groups)
        best = max(pairs, key=lambda i: float(cosines[groups[i][0], groups[i + 1][0]]))
        groups[best : best + 2] = [groups[best] + groups[best + 1]]
    streams = Streams(statistics.engine, statistics.rows)
    merge = FlatMerge(streams, ridge)
    specs = []
    states = streams.embedded(statistics.whole)
    for group in groups:
        layers = [statistics.whole.layers[layer] for layer in group]
        specs.append(layers[0] if len(group) == 1 else merge(layers, states))
        if len(group) > 1:
            statistics.spend(2 * len(group) * streams.n_tokens)
        for spec in layers:
            states = streams.run(spec, states)
    statistics.spend(context.space.n_layers * streams.n_tokens)
    return context.of(specs)


class FlatMerge:
    """Makes one layer of several that all run on the stream entering the first."""

    def __init__(self, streams: Streams, ridge: float = 10.0) -> None:
        self._streams, self._ridge = streams, ridge
        self._family = streams.engine.family

    def __call__(self, specs: Sequence[LayerSpec], states: Sequence[Tensor]) -> LayerSpec:
        """Merge the layers into one, at the first's position, with all tensors fitted.

        Attention keeps the kv-groups with the largest outputs, the mean over tokens of the
        absolute inputs of ``o_proj`` times the norms of its columns. The FFN, which reads the
        stream after that attention, keeps the neurons with the highest ridge leverage scores, and
        ``down_proj`` makes up for the others (`nystrom`).

        Args:
            specs: Two or more layers, of any members.
            states: The states that enter the first, as `Streams` has them.
        """
        family, streams, first = self._family, self._streams, specs[0]
        wide = joined([without_gains(family, spec) for spec in specs])
        sizes = GatedLayer.of(family.config, layer_weights(family, first, family.dtype))
        outputs = torch.cat([inputs_of(streams, spec, states, OUT).abs().mean(0) for spec in specs])
        strength = outputs.to(wide[OUT]) * wide[OUT].norm(dim=0)
        per_group = strength.reshape(-1, sizes.group_columns).sum(1)
        groups = _highest(per_group, sizes.n_groups)
        attention = {
            name: tensor.to(family.dtype)
            for name, tensor in sizes.part(wide, groups, []).items()
            if name.startswith(("self_attn.", "input_layernorm."))
        }
        parts = []
        for spec in specs:
            own = layer_weights(family, spec, family.dtype) if spec.repaired else {}
            parts.append(spec.with_repair(fitted=family.fitted.add({**own, **attention})))
        gram = gram_of(torch.cat([inputs_of(streams, spec, states, DOWN) for spec in parts], 1))
        family.fitted.drop(spec.fitted for spec in parts)
        neurons = _highest(leverage_scores(gram, self._ridge), sizes.n_neurons)
        flat = sizes.part(wide, groups, neurons)
        flat[DOWN] = nystrom(wide[DOWN].double().cpu(), gram, neurons, self._ridge)
        tensors = {name: tensor.to(family.dtype) for name, tensor in flat.items()}
        return first.with_repair(fitted=family.fitted.add(tensors))


def without_gains(family: Family, spec: LayerSpec) -> dict[str, Tensor]:
    """A layer's tensors in float32 with its norms' gains in the matrices that read them.

    Raises:
        FamilyError: Its norms are not the two before attention and FFN, or it has no heads and
            neurons that can be distinguished.
    """
    tensors = {n: t.float() for n, t in layer_weights(family, spec, torch.float32).items()}
    GatedLayer.of(family.config, tensors)
    others = [name for name in tensors if "norm" in name and name not in READERS]
    missing = [name for name in READERS if name not in tensors]
    if others or missing or norm_offset(family.config):
        gain = f"{others[0] if others else 'its norms'} has a gain that no matrix can take over"
        why = f"there is no {missing[0]}" if missing else gain
        raise FamilyError(
            f"{family.config.model_type}: layers can't be joined side by side: {why}; use another "
            "baseline"
        )
    for norm, readers in READERS.items():
        for reader in readers:
            tensors[reader] = tensors[reader] * tensors[norm]
        tensors[norm] = torch.ones_like(tensors[norm])
    return tensors


def joined(layers: Sequence[Tensors]) -> dict[str, Tensor]:
    """One layer that adds what all of them add; heads and neurons of each, one after another."""
    wide = {}
    for name, tensor in layers[0].items():
        found = [layer[name] for layer in layers]
        if name in READERS:
            wide[name] = tensor
        elif not name.startswith(_OVER_ROWS):
            wide[name] = torch.cat(found)
        else:
            wide[name] = sum(found[1:], tensor) if tensor.ndim == 1 else torch.cat(found, 1)
    return wide


def leverage_scores(gram: Tensor, ridge: float) -> Tensor:
    """``[C (C + lambda)^-1]_ii`` of a Gram matrix C (F, F); lambda is `ridge` mean eigenvalues."""
    shift = _shift(gram, ridge)
    factor = torch.linalg.cholesky(gram + torch.diag(shift.expand(len(gram))))
    return 1 - shift * torch.cholesky_inverse(factor).diagonal()


def nystrom(down: Tensor, gram: Tensor, kept: Sequence[int], ridge: float) -> Tensor:
    """The columns of ``down_proj`` that are kept, changed to make up for the others.

    ``W + (S^T C S + lambda)^-1 S^T C (1 - S S^T) W`` for W = `down` (H, F) transposed: the least
    squares prediction of the neurons that are left out from those that are kept.
    """
    keep = torch.tensor(kept, dtype=torch.int64, device=gram.device)
    gone = torch.ones(len(gram), dtype=torch.bool, device=gram.device)
    gone[keep] = False
    left = gram[keep][:, keep]
    left = left + torch.diag(_shift(gram, ridge).expand(len(keep)))
    step: Tensor = torch.linalg.solve(left, gram[keep][:, gone] @ down[:, gone].T)  # (kept, H)
    return down[:, keep] + step.T


def _shift(gram: Tensor, ridge: float) -> Tensor:
    return ridge * gram.diagonal().mean() + torch.finfo(torch.float64).tiny


def _highest(scores: Tensor, n_kept: int) -> list[int]:
    """Indices of the highest scores, in order."""
    order = scores.sort(descending=True, stable=True).indices[:n_kept]
    return sorted(map(int, order.tolist()))
