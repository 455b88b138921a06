"""The last linear map of a layer, whose outputs are added to the residual stream as they are."""

import copy
import re
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D

from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.engine.streams import Streams
from gptailor.engine.walk import run_layer
from gptailor.errors import ConfigError
from gptailor.repair.scale import refuse_inexact_scale

__all__ = ["LastMap", "last_map"]

_NAMES = re.compile(
    r"(^|\.)(down_proj|fc2|fc_out|dense_4h_to_h|(mlp|feed_forward|ffn)\.(c_proj|w2|wo))\.weight$"
)
_EXPERTS = re.compile(r"(^|\.)(experts|router|shared_experts?)\.")
_TOLERANCE = 0.02  # relative error of the outputs, which are rounded to the family's dtype


@dataclass(frozen=True, slots=True)
class LastMap:
    """A linear map that ends a layer."""

    name: str  # inside the layer, such as ``mlp.down_proj``
    transposed: bool  # whether its weight is (F, H), not (H, F)
    factor: float  # of its outputs, before they are added to the stream

    @property
    def weight(self) -> str:
        """The name of its weight."""
        return f"{self.name}.weight"

    def oriented(self, weight: Tensor) -> Tensor:
        """Its weight as (H, F), or back."""
        return weight.T if self.transposed else weight


def last_map(streams: Streams, position: int) -> LastMap:
    """Find the last map of the layers at a position, and check that the layer adds its outputs.

    Raises:
        ConfigError: The layer has none that could be refitted; says why.
    """
    family = streams.engine.family
    names = list(family.layer(Source(BASE, position)))
    found = [name for name in names if _NAMES.search(name)]
    if any(_EXPERTS.search(name) for name in names):
        raise _refusal(streams, position, "is made of experts, each of which sees other tokens")
    if len(found) != 1:
        raise _refusal(streams, position, "has no single linear map at its end")
    name = found[0].removesuffix(".weight")
    spec = LayerSpec((Source(BASE, position),))
    transposed = isinstance(streams.engine.layers.get(spec).get_submodule(name), Conv1D)
    plain = LastMap(name, transposed, factor=1.0)
    factor = _factor(streams, position, plain)
    if factor is None:
        raise _refusal(streams, position, f"does not add the outputs of {name} as they are")
    return replace(plain, factor=factor)


@torch.inference_mode()
def _factor(streams: Streams, position: int, last: LastMap) -> float | None:
    """The factor of a map's outputs in the stream; None where the layer does more with them.

    The layer is run with the map's weight at 0 and drawn at random, on one batch: its own may be 0
    everywhere, as in a model that was made deeper. What it adds is about as long as what it is
    added to, so that little of it is rounded off; a power of two makes it so, which changes no
    digit.
    """
    spec, kept = LayerSpec((Source(BASE, position),)), streams.kept[0]
    states = streams.embedded(Tailoring.whole(BASE, streams.engine.family.n_layers))[0]
    ((inputs, _),) = streams.tapped(spec, [states], last.name)
    layer = copy.deepcopy(streams.engine.layers.get(spec))
    module = layer.get_submodule(last.name)
    own = module.weight
    assert isinstance(own, Tensor)
    given = inputs[kept].float()  # (n, F)
    drawn = torch.randn(own.shape, generator=torch.Generator().manual_seed(0)).to(own)
    outputs = given @ last.oriented(drawn).T.float()  # (n, H)

    def after(weight: Tensor) -> Tensor:
        module.load_state_dict({"weight": weight}, strict=False, assign=True)
        states_after = run_layer(layer, states, streams.arguments(0, position))
        return states_after[kept].float()  # (n, H)

    without = after(torch.zeros_like(own))
    scale = 2.0 ** float((without.norm() / outputs.norm()).log2().round())
    outputs = outputs * scale
    added = after(drawn * scale) - without
    factor = float((added * outputs).sum() / outputs.square().sum())
    error = float((added - factor * outputs).norm() / added.norm())
    return factor if error < _TOLERANCE and factor > 0 else None


def _refusal(streams: Streams, position: int, why: str) -> ConfigError:
    """Say why layers can't be refitted, and which repair the family allows instead."""
    kind = streams.engine.family.config.model_type
    try:
        refuse_inexact_scale(streams)
        instead = "try repair: scale, which this type allows, or repair: none"
    except ConfigError:
        instead = "write repair: none"
    return ConfigError(
        f"repair: refit is not possible for models of type {kind!r}: layer {position} {why}; "
        f"{instead}"
    )
