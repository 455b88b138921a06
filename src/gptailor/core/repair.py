"""Repairs of cuts as data: which layers of a tailoring are scaled or refitted.

A cut [start, end) is a run of positions without a layer. Nothing here reads a weight.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from gptailor.core.tailoring import BASE, LayerSpec, Tailoring

__all__ = [
    "Cut",
    "Repairer",
    "cuts_of",
    "fitted_from",
    "gaps_of",
    "put_back",
    "refit_cuts",
    "repair_sentence",
    "scale_cuts",
    "without_repair",
]

Repairer = Callable[[Tailoring], Tailoring]


@dataclass(frozen=True, slots=True)
class Cut:
    """A run of positions without a layer, from `start` to before `end`."""

    start: int
    end: int
    before: int | None  # index in the tailoring of the layer before it; None where there is none


def cuts_of(tailoring: Tailoring, n_layers: int) -> tuple[Cut, ...]:
    """The cuts of a tailoring; () where layers are not in order, or one is merged over positions.

    What such a merge adds of the layers behind it is not known; a refit, which needn't know, is
    made for `gaps_of`.

    Example:
        >>> layers = Tailoring.whole("base", 6).layers
        >>> cuts_of(Tailoring((layers[0], layers[3])), 6)
        (Cut(start=1, end=3, before=0), Cut(start=4, end=6, before=1))
    """
    spanning = any(spec.spans for spec in tailoring.layers)
    return () if spanning else gaps_of(tailoring, n_layers)


def gaps_of(tailoring: Tailoring, n_layers: int) -> tuple[Cut, ...]:
    """The runs of positions between one layer and the next: cuts, and what merges stand for, too.

    A layer merged from several positions stands at the lowest. () where such a layer has sources
    of several members, for no whole model is the one that it was made from; and where the
    positions of layers fall.

    Example:
        >>> layers = (LayerSpec.of("base:0"), LayerSpec.of("base:1", "base:2", merge="linear"))
        >>> gaps_of(Tailoring(layers), 3)
        (Cut(start=2, end=3, before=1),)
    """
    spanning = [spec for spec in tailoring.layers if spec.spans]
    positions = [spec.start for spec in tailoring.layers]
    mixed = any(len({each.member for each in spec.sources}) > 1 for spec in spanning)
    if mixed or positions != sorted(positions):
        return ()
    ends = [*positions, n_layers]
    starts = [0, *(position + 1 for position in positions)]
    return tuple(
        Cut(start, end, index - 1 if index else None)
        for index, (start, end) in enumerate(zip(starts, ends, strict=True))
        if start < end
    )


def fitted_from(spec: LayerSpec) -> list[str]:
    """The members on whose streams a layer is refitted in a search, one for each source.

    Of a merge of variants and the base those of the variants alone: a stream of each is run.
    """
    members = [source.member for source in spec.sources]
    return [member for member in members if member != BASE] or members


def put_back(model: LayerSpec, position: int, fitted: Tailoring | None) -> LayerSpec:
    """A layer that is cut, made as another one is.

    Args:
        model: The other one, without repair.
        position: Of the layer.
        fitted: A whole model; where `model` is one of its layers, the layer is another one of them.
    """
    if fitted is not None and fitted.layers[model.position] == model:
        return fitted.layers[position]
    return model.moved(position - model.position)


def without_repair(tailoring: Tailoring) -> Tailoring:
    """The same sources and merges, no cut repaired.

    Fitted tensors that are not a refit, such as those of a narrower layer, are kept; a layer that
    was refitted loses all of them, for they are in one file.
    """
    return replace(tailoring, layers=tuple(map(_unrepaired, tailoring.layers)))


def refit_cuts(tailoring: Tailoring, n_layers: int) -> Tailoring:
    """Mark the layer before each gap to be refitted, unless it has fitted tensors of its own.

    A gap before the first layer is not repaired.
    """
    layers = [_unrepaired(spec) for spec in tailoring.layers]
    for cut in gaps_of(tailoring, n_layers):
        if cut.before is not None and layers[cut.before].fitted is None:
            layers[cut.before] = layers[cut.before].with_repair(refit_to=cut.end)
    return replace(tailoring, layers=tuple(layers))


def scale_cuts(
    tailoring: Tailoring, n_layers: int, norms: Mapping[str, Sequence[float]]
) -> Tailoring:
    """Scale the stream behind each cut to the whole model's: an exact fold into later layers.

    The stream after a cut [s, e) would be multiplied by ``g = |h_e| / |h_s|`` of the whole model.
    A layer sees the stream through a norm, to which its scale does not matter, so the layers after
    the cut are divided by g instead, and by those of all cuts before. A cut before the first layer
    is not repaired, nor is a model in which a layer before a cut has fitted tensors of its own: it
    may be a merge that stands for the cut, too.

    Differs from Prune&Comp (https://arxiv.org/abs/2507.18212): that takes for g the mean over
    channels of the ratios of their mean absolute values, and folds it into the embedding, which
    changes a tied head.

    Args:
        tailoring: Its own repair is replaced.
        n_layers: Of the whole model.
        norms: Member to the mean norms of the streams that enter positions 0 to `n_layers` of the
            whole member; of several sources the geometric mean counts.

    Raises:
        TailoringError: A factor that is no gain (1e-6 to 1e6).
    """
    layers = [_unrepaired(spec) for spec in tailoring.layers]
    factors = [1.0] * len(layers)
    cuts = [(cut, cut.before) for cut in cuts_of(tailoring, n_layers) if cut.before is not None]
    if any(layers[before].fitted is not None for _, before in cuts):
        cuts = []
    for cut, before in cuts:
        members = [source.member for source in layers[before].sources]
        ratios = [math.log(norms[each][cut.end] / norms[each][cut.start]) for each in members]
        g = math.exp(math.fsum(ratios) / len(ratios))
        for index in range(before + 1, len(layers)):
            factors[index] /= g
    scaled = (
        spec.with_repair(gain=float(f"{factor:.6g}"), fitted=spec.fitted)
        for spec, factor in zip(layers, factors, strict=True)
    )
    return replace(tailoring, layers=tuple(scaled))


def repair_sentence(tailoring: Tailoring) -> str:
    """Which layers, by their positions in the whole model, were repaired; without repairs, "".

    Example:
        >>> repair_sentence(refit_cuts(Tailoring.from_plain(
        ...     {"format": "gptailor/1", "layers": ["base:0", "base:2"]}), 3))
        'Cuts were repaired in closed form: original layer 0 was refitted.'
    """
    ways = {
        "refitted": [spec.position for spec in tailoring.layers if spec.refit_to is not None],
        "scaled": [spec.position for spec in tailoring.layers if spec.gain != 1.0],
    }
    parts = [
        f"original {'layer' if len(layers) == 1 else 'layers'} {', '.join(map(str, layers))} "
        f"{'was' if len(layers) == 1 else 'were'} {way}"
        for way, layers in ways.items()
        if layers
    ]
    return f"Cuts were repaired in closed form: {'; '.join(parts)}." if parts else ""


def _unrepaired(spec: LayerSpec) -> LayerSpec:
    return spec.with_repair(fitted=spec.fitted if spec.refit_to is None else None)
