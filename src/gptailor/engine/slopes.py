"""Slopes: how a loss changes with how much of a member's difference from the base a layer has.

The slope is the inner product of the difference with the loss's gradient by the layer's weights:
what merging coefficients of a layer are fitted by (AdaMerging, arXiv 2310.02575). The model is run
forwards once without gradients; then backwards one layer at a time, so that only the weights of one
layer have gradients at a time.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.engine.batches import Batch
from gptailor.engine.engine import Engine
from gptailor.engine.head import score, slopes
from gptailor.engine.skeleton import Inputs
from gptailor.engine.walk import hidden_of, run_layer
from gptailor.tasks.task import Passage

__all__ = ["PASSES", "Slopes", "member_slopes"]

PASSES = 4  # forwards that one takes: without gradients; with them, and a backward of two

_FLOAT16_SCALE = 2.0**10  # of gradients in float16, which has few small numbers

Weights = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Slopes:
    """The slopes of a loss at one model."""

    loss: float
    by_layer: tuple[tuple[float, ...], ...]  # (n_layers, n_members), of the loss a whole difference
    layer_tokens: int  # tokens times layers run; a backward pass counts as two forwards


def member_slopes(
    engine: Engine,
    tailoring: Tailoring,
    members: Sequence[str],
    passages: Sequence[Passage],
    loss: Callable[[Tensor], Tensor],
) -> Slopes:
    """Differentiate a loss by how much of members' differences each layer of a model has.

    Memory: the states of all passages at every depth, and float32 gradients of one layer's weights.

    Args:
        engine: Has the members.
        tailoring: The model. Fitted tensors of its layers have no slopes.
        members: Whose differences from the base are added.
        passages: With one continuation each.
        loss: Of the log-probabilities of the continuations, nats, float32 (n_passages,), on the
            CPU; differentiable.
    """
    batches = engine.pack(passages)
    with torch.no_grad():
        inputs = [engine.skeleton.inputs(tailoring, batch) for batch in batches]
        states = [[each.hidden for each in inputs]]  # by depth, then by batch: (B, T, H)
        for spec in tailoring.layers:
            layer, before = engine.layers.made(spec), zip(states[-1], inputs, strict=True)
            states.append([run_layer(layer, h, i.arguments[spec.position]) for h, i in before])
    scale = _FLOAT16_SCALE if engine.family.dtype == torch.float16 else 1.0
    value, outer = _from_the_head(engine, tailoring, batches, states.pop(), loss, scale)
    by_layer: list[tuple[float, ...]] = []
    for spec in reversed(tailoring.layers):
        gradients, outer = _through(engine.layers.made(spec), spec, states.pop(), inputs, outer)
        fitted = engine.family.fitted.get(spec.fitted) if spec.fitted is not None else {}
        own = {name: each for name, each in gradients.items() if name not in fitted}
        by_layer.append(tuple(each / scale for each in _along(engine, spec, members, own)))
    n_tokens = sum(batch.n_tokens for batch in batches)
    layer_tokens = PASSES * n_tokens * len(tailoring.layers)
    return Slopes(value, tuple(reversed(by_layer)), layer_tokens)


def _from_the_head(
    engine: Engine,
    tailoring: Tailoring,
    batches: Sequence[Batch],
    states: Sequence[Tensor],
    loss: Callable[[Tensor], Tensor],
    scale: float,
) -> tuple[float, list[Tensor]]:
    """The loss, and its gradients by the last states of each batch, times `scale`."""
    sums = torch.zeros(sum(len(batch.passages) for batch in batches))
    owners = []
    for batch, hidden in zip(batches, states, strict=True):
        numbers = torch.tensor([batch.numbers[passage] for passage, _ in batch.spans])
        owners.append(numbers[batch.target_span])
        with torch.no_grad():
            targets = score(engine.skeleton, tailoring, batch.gathered(hidden), batch, None)
        sums.index_add_(0, owners[-1], targets.logprob.cpu())
    with torch.enable_grad():
        value = loss(sums.requires_grad_())
    (by_passage,) = torch.autograd.grad(value, sums)
    outer = []
    for batch, hidden, owner in zip(batches, states, owners, strict=True):
        gathered, by_target = batch.gathered(hidden), by_passage[owner] * scale
        found = slopes(engine.skeleton, tailoring, gathered, batch, by_target)
        places = batch.gather.to(hidden.device)
        flat = torch.zeros_like(hidden).flatten(0, 1).index_copy(0, places, found)
        outer.append(flat.view_as(hidden))
    return float(value.detach()), outer


def _through(
    layer: nn.Module,
    spec: LayerSpec,
    states: Sequence[Tensor],
    inputs: Sequence[Inputs],
    outer: Sequence[Tensor],
) -> tuple[Weights, list[Tensor]]:
    """Go back through one layer: float32 gradients by its weights, and those by its inputs."""
    weights = {name: _leaf(weight) for name, weight in layer.named_parameters()}
    gradients = {name: torch.zeros_like(w, dtype=torch.float32) for name, w in weights.items()}
    inner = []
    for before, given, behind in zip(states, inputs, outer, strict=True):
        hidden = _leaf(before)
        with torch.enable_grad():
            arguments = dict(given.arguments[spec.position])
            after = hidden_of(functional_call(layer, weights, (hidden,), arguments))
            found = torch.autograd.grad(
                after, [hidden, *weights.values()], behind, materialize_grads=True
            )
        inner.append(found[0])
        for name, one in zip(weights, found[1:], strict=True):
            gradients[name] += one
    return gradients, inner


def _along(
    engine: Engine, spec: LayerSpec, members: Sequence[str], gradients: Mapping[str, Tensor]
) -> tuple[float, ...]:
    """Inner products of a layer's gradients with each member's difference from the base."""

    def weights_of(member: str) -> dict[str, Tensor]:
        layer = engine.layers.get(LayerSpec((Source(member, spec.position),)))
        return dict(layer.named_parameters())

    base = weights_of(BASE)
    slopes = []
    for member in members:
        theirs = weights_of(member)
        products = [
            (gradient * (theirs[name].float() - base[name].float())).sum()
            for name, gradient in gradients.items()
            if theirs[name].data_ptr() != base[name].data_ptr()
        ]
        slopes.append(torch.stack(products).sum() if products else torch.zeros(()))
    return tuple(torch.stack([each.cpu() for each in slopes]).double().tolist())


def _leaf(tensor: Tensor) -> Tensor:
    """The same values with gradients; a tensor of inference mode is copied."""
    plain = tensor.clone() if tensor.is_inference() else tensor.detach()
    return plain.requires_grad_()
