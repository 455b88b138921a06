"""Scale the stream behind cuts: the norms of whole members, and whether the fold is exact."""

from collections.abc import Iterable

import torch

from gptailor.core.tailoring import BASE, Tailoring
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError

__all__ = ["refuse_inexact_scale", "stream_norms"]

_FACTOR = 2.0  # a power of two: rounds nothing
_TOLERANCE = 0.02  # relative, of outputs that are rounded to the family's dtype


@torch.inference_mode()
def stream_norms(streams: Streams, members: Iterable[str]) -> dict[str, tuple[float, ...]]:
    """Member to the mean norms of the streams that enter each layer and follow the last.

    Of N layers N + 1 numbers; first tokens, whose stream is many times longer, are left out.
    """
    n_layers = streams.engine.family.n_layers
    return {
        member: tuple(
            float(torch.cat([s[k].float().norm(dim=-1) for s, k in pairs]).mean())
            for states in streams.along(Tailoring.whole(member, n_layers))
            for pairs in [list(zip(states, streams.kept, strict=True))]
        )
        for member in members
    }


@torch.inference_mode()
def refuse_inexact_scale(streams: Streams) -> None:
    """Refuse a family in which a layer's view of the stream depends on the stream's scale.

    The last layer of each kind of the base is run on half the stream with half of what it adds, on
    one batch: the result must be half of the original. (Streams that enter first layers may be so
    small that the epsilon of a norm counts.)

    Raises:
        ConfigError: It is not.
    """
    family = streams.engine.family
    last = {kind: position for position, kind in enumerate(family.kinds)}
    base, kept = Tailoring.whole(BASE, family.n_layers), streams.kept[0]
    after = streams.embedded(base)[0]
    for position, spec in enumerate(base.layers):
        before = after
        (after,) = streams.run(spec, [before])
        if last[family.kinds[position]] != position:
            continue
        (half,) = streams.run(spec.with_repair(gain=1 / _FACTOR), [before / _FACTOR])
        added = (after - before)[kept].float()
        error = (half * _FACTOR - after)[kept].float().norm() / added.norm()
        if float(error) > _TOLERANCE:
            raise ConfigError(
                f"repair: scale is not exact for models of type {family.config.model_type!r}: "
                f"layer {position} depends on the scale of the stream; leave repair out"
            )
