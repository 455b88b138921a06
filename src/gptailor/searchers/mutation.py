"""Small changes to a tailoring, and the crossover of two; the number of layers never changes.

Later positions may be drawn more often: children that differ from their parent only in late layers
share a long prefix with it, and the engine runs a shared prefix once.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

from gptailor.core.merge_spec import merge_spec
from gptailor.core.repair import put_back
from gptailor.core.tailoring import LayerSpec, Source, Tailoring, Value
from gptailor.searchers.space import Space, layers_by_position, on_step, shares

__all__ = ["CHANGES", "crossover", "draw_position", "mutate"]

_TRIES = 10  # draws of a child that differs and is allowed, before giving up
_NOISE = 0.15  # standard deviation of a change of a parameter, as a fraction of its span
_RUNS = (1, 1, 2, 4, 8)  # numbers of neighbouring layers that change their source together

Layers = dict[int, LayerSpec]


@dataclass(slots=True)
class _Child:
    """A tailoring that is being changed; `layers` by position, in order."""

    layers: Layers
    embedding: LayerSpec
    norm: LayerSpec


Change = Callable[[Space, _Child, float, Generator], None]


def mutate(
    space: Space,
    tailoring: Tailoring,
    rng: Generator,
    *,
    rates: Mapping[str, float],
    n_changes: int = 1,
    late: float = 0.0,
) -> tuple[Tailoring, str] | None:
    """Change a tailoring in one or more ways.

    Args:
        space: What is possible.
        tailoring: The parent.
        rng: Source of all random draws.
        rates: How often each of `CHANGES` is made, relative to the others.
        n_changes: How many are made, one after another.
        late: See `draw_position`.

    Returns:
        The child and the names of its changes; None if no draw gave an allowed one that differs.
    """
    names = [name for name in CHANGES if rates.get(name, 0.0) > 0 and _possible(space, name)]
    if not names:
        return None
    odds = np.array([rates[name] for name in names])
    for _ in range(_TRIES):
        parts = _Child(
            layers_by_position(tailoring), tailoring.embedding, tailoring.outer_parts["norm"]
        )
        done = set()
        for _ in range(n_changes):
            name = names[rng.choice(len(names), p=odds / odds.sum())]
            CHANGES[name](space, parts, late, rng)
            parts.layers = dict(sorted(parts.layers.items()))
            done.add(name)
        child = space.tailoring(parts.layers, parts.embedding, parts.norm)
        if child != tailoring and space.accepts(child):
            return child, "+".join(sorted(done))
    return None


def crossover(
    space: Space, first: Tailoring, second: Tailoring, rng: Generator
) -> Tailoring | None:
    """Combine two tailorings: the first's beginning and the second's end, or layer by layer.

    Layers cut in both stay cut; further cuts are taken from the cuts of either.

    Returns:
        The child; None if no draw gave an allowed one that differs from both.
    """
    for _ in range(_TRIES):
        if rng.random() < 0.5:
            point = int(rng.integers(1, max(2, space.n_layers)))
            from_first = np.arange(space.n_layers) < point
        else:
            from_first = rng.random(space.n_layers) < 0.5
        child = _mixed(space, first, second, from_first, rng)
        if child not in (first, second) and space.accepts(child):
            return child
    return None


def draw_position(space: Space, positions: tuple[int, ...], late: float, rng: Generator) -> int:
    """Draw one of `positions`.

    With `late` at 0 all are equally likely; at 1 the last is four times as likely as the middle.
    """
    depth = (np.array(positions) + 1.0) / space.n_layers
    weights = (1.0 - late) + late * 3.0 * depth**2  # of mean 1 over all layers
    return int(rng.choice(positions, p=weights / weights.sum()))


def _mixed(
    space: Space, first: Tailoring, second: Tailoring, from_first: np.ndarray, rng: Generator
) -> Tailoring:
    ours, theirs = layers_by_position(first), layers_by_position(second)
    cut_ours, cut_theirs = set(space.without(ours)), set(space.without(theirs))
    both, either = cut_ours & cut_theirs, cut_ours | cut_theirs
    wanted = [
        layer for layer in sorted(either - both) if (layer in cut_ours) == bool(from_first[layer])
    ]
    others = sorted(either - both - set(wanted))
    rng.shuffle(wanted)
    rng.shuffle(others)
    cuts = both | set([*wanted, *others][: space.n_removed - len(both)])
    layers = {}
    for layer in space.without(cuts):
        leading, other = (ours, theirs) if from_first[layer] else (theirs, ours)
        layers[layer] = leading[layer] if layer in leading else other[layer]
    norm = (first if from_first[-1] else second).outer_parts["norm"]
    return space.tailoring(layers, (first if from_first[0] else second).embedding, norm)


def _swap(space: Space, child: _Child, late: float, rng: Generator) -> None:
    """Cut a kept layer and bring back a cut one, with the sources of one of its new neighbours."""
    layers = child.layers
    cut = space.without(layers)
    kept = tuple(layer for layer in layers if layer not in space.keep)
    back, gone = draw_position(space, cut, late, rng), draw_position(space, kept, late, rng)
    if rng.random() < 0.5:  # nearby layers are alike: half of the swaps are with the nearest
        gone = min(kept, key=lambda layer: (abs(layer - back), rng.random()))
    neighbour = min(layers, key=lambda layer: (abs(layer - back), rng.random()))
    layers[back] = put_back(layers[neighbour], back, space.fitted)
    del layers[gone]


def _period_swap(space: Space, child: _Child, rng: Generator) -> None:
    """Bring back a period's worth of cut layers and cut as many neighbours elsewhere."""
    layers, cut = child.layers, space.without(child.layers)
    start = int(rng.integers(len(cut) - space.period + 1))
    returned = cut[start : start + space.period]
    runs = space.period_runs(sorted((*layers, *returned)))
    if not runs:
        return
    for back in returned:
        neighbour = min(layers, key=lambda layer: (abs(layer - back), layer))
        layers[back] = put_back(layers[neighbour], back, space.fitted)
    for gone in runs[rng.integers(len(runs))]:
        del layers[gone]


def _cuts(space: Space, child: _Child, late: float, rng: Generator) -> None:
    periodic = space.allowed is not None and 1 < space.period <= space.n_removed
    if periodic and rng.random() < 0.5:
        _period_swap(space, child, rng)
    else:
        _swap(space, child, late, rng)


def _source(space: Space, child: _Child, late: float, rng: Generator) -> None:
    """Take a run of neighbouring layers from newly drawn sources, the same for all of them."""
    positions = tuple(child.layers)
    start = positions.index(draw_position(space, positions, late, rng))
    spec = space.random_spec(positions[start], rng)
    for layer in positions[start : start + _RUNS[rng.integers(len(_RUNS))]]:
        child.layers[layer] = _moved(spec, layer)


def _everywhere(space: Space, child: _Child, late: float, rng: Generator) -> None:
    """Take every layer from newly drawn sources, the same for all of them."""
    spec = space.random_spec(0, rng)
    child.layers = {layer: _moved(spec, layer) for layer in child.layers}


def _merge(space: Space, child: _Child, late: float, rng: Generator) -> None:
    """Change a merged layer's parameters or members; merge a layer if none is."""
    layers = child.layers
    merged = tuple(layer for layer, spec in layers.items() if len(spec.sources) > 1)
    if not merged:
        layer = draw_position(space, tuple(layers), late, rng)
        layers[layer] = space.random_merge(layer, rng)
        return
    layer = draw_position(space, merged, late, rng)
    old = layers[layer]
    new = _with_noise(old, rng) if rng.random() < 0.5 else _other_members(space, old, layer, rng)
    for twin in merged:  # neighbours with the same merge keep the same merge
        if twin >= layer and _moved(layers[twin], layer) == old:
            layers[twin] = _moved(new, twin)
        elif twin >= layer:
            break


def _outer(space: Space, child: _Child, late: float, rng: Generator) -> None:
    """Take the embedding, or norm and head, from a newly drawn member."""
    drawn = space.random_outer(rng)
    if rng.random() < 0.5:
        child.embedding = drawn
    else:
        child.norm = drawn


CHANGES: dict[str, Change] = {
    "swap": _cuts,
    "source": _source,
    "everywhere": _everywhere,
    "merge": _merge,
    "outer": _outer,
}


def _possible(space: Space, change: str) -> bool:
    if change == "swap":
        return 0 < space.n_removed < len(space.free)
    if change == "merge":
        return space.merges
    if change == "outer":
        return len(space.outer_members) > 1
    return bool(space.variants)


def _moved(spec: LayerSpec, layer: int) -> LayerSpec:
    """The same sources, merge and parameters at another position."""
    sources = tuple(Source(source.member, layer) for source in spec.sources)
    return LayerSpec(sources, spec.method, spec.params)


def _with_noise(spec: LayerSpec, rng: Generator) -> LayerSpec:
    """Add Gaussian noise to a merge's parameters, within the spans that a search may propose."""
    assert spec.method is not None, "only merges have parameters"
    merge = merge_spec(spec.method)
    params: dict[str, Value] = dict(spec.params)
    for name, limits in merge.params.items():
        value = params[name]
        if limits.tunable and not isinstance(value, tuple):
            low, high = limits.span
            share = (value - low) / (high - low) if high > low else 0.0
            params[name] = on_step(limits, share + _NOISE * float(rng.standard_normal()))
    weights = params.get("weights")
    if isinstance(weights, tuple):
        noise = _NOISE * rng.standard_normal(len(weights))
        if min(weights) < 0:  # fitted ones: their sum stays
            noisy = np.array(weights) + noise - noise.mean()
            params["weights"] = tuple(np.round(noisy, 4).tolist())
        else:
            params["weights"] = shares(np.maximum(np.array(weights) + noise, 0.01))
    return LayerSpec(spec.sources, spec.method, tuple(params.items()))


def _other_members(space: Space, spec: LayerSpec, layer: int, rng: Generator) -> LayerSpec:
    """Add one variant to a merge or remove it; draw weighted merges anew."""
    assert spec.method is not None, "only merges have members"
    merge = merge_spec(spec.method)
    ours = [source.member for source in spec.sources]
    changed = str(space.variants[rng.integers(len(space.variants))])
    members = [member for member in ours if member != changed]
    if changed not in ours:
        members = [*ours, changed]
    if merge.max_sources is not None and len(members) > merge.max_sources:
        members = [*ours[1:], changed]
    if merge.weighted and len(members) > 1:
        return space.random_merge(layer, rng)
    params = {} if len(members) == 1 else dict(spec.params)
    return space.spec(layer, tuple(members), spec.method if len(members) > 1 else None, **params)
