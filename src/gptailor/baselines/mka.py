"""MKA: merge the two adjacent layers whose outputs share the most information.

Liu et al. 2024, "Pruning via Merging", https://arxiv.org/abs/2406.16330.
"""

from typing import Annotated

import torch
from torch import Tensor

from gptailor.baselines.context import BaselineContext
from gptailor.core.params import Range
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError

__all__ = ["diffusion_map", "mka", "shared_information"]

_N_AXES = 2  # of the diffusion map


def mka(context: BaselineContext, *, samples: Annotated[int, Range(8, 4096)] = 256) -> Tailoring:
    """Merge the most similar neighbours, ``S W_l + (1 - S) W_m``, until enough layers are gone.

    Each layer's output is reduced to two coordinates a token by a diffusion map; the similarity S
    of two layers is the normalised mutual information of these. A layer that was merged already is
    compared by the output of its last one.

    Args:
        context: What is to be cut.
        samples: Tokens that are compared.

    Differs from the paper: the mutual information is that of normal variables with the same
    correlations, normalised to ``sqrt(1 - exp(-2 I / d))``. Differs from the authors' code: that
    merges the last two layers only, whatever their similarity, by shares near 0.62 and 0.38, and
    drops the result, so that it cuts the last layers (the baseline ``tail``).

    Raises:
        ConfigError: No neighbours are left that may be merged, or the texts have too few tokens.
    """
    statistics, space = context.statistics, context.space
    maps = _diffusion_maps(context, samples)
    groups = [{layer: 1.0} for layer in range(space.n_layers)]
    while len(groups) > space.n_kept:
        found = [
            (shared_information(maps[max(groups[index])], maps[max(groups[index + 1])]), index)
            for index in context.neighbours(groups)
        ]
        share, index = max(found, key=lambda pair: (pair[0], -pair[1]))
        merged = {layer: share * weight for layer, weight in groups[index].items()}
        merged |= {layer: (1 - share) * weight for layer, weight in groups[index + 1].items()}
        groups[index : index + 2] = [merged]
    whole = statistics.whole
    specs = []
    for group in groups:
        sources = tuple(whole.layers[layer].sources[0] for layer in group)
        specs.append(LayerSpec(sources, "linear", (("weights", tuple(group.values())),)))
    return context.of(specs)


def diffusion_map(points: Tensor) -> Tensor:
    """Two coordinates of each point: the first eigenvectors of a Gaussian kernel's random walk.

    The kernel's width is the median distance. (n, H) to (n, 2) in float64.
    """
    distances = torch.cdist(points.double(), points.double())
    width = distances[distances > 0].median() if bool((distances > 0).any()) else 1.0
    kernel = torch.exp(-((distances / width) ** 2))
    root = kernel.sum(1).rsqrt()
    values, vectors = torch.linalg.eigh(root[:, None] * kernel * root)  # ascending
    walk = vectors * root[:, None]
    found: Tensor = (walk * values)[:, -1 - _N_AXES : -1].flip(1)  # the last is constant
    return found


def shared_information(one: Tensor, other: Tensor) -> float:
    """Normalised mutual information of two sets of coordinates (n, d), as of normal variables.

    ``sqrt(1 - exp(-2 I / d))`` with ``I = -1/2 sum log(1 - rho^2)`` over canonical correlations
    rho: 0 for independent ones, 1 where one is a linear map of the other.
    """
    bases = [torch.linalg.qr(x - x.mean(0)).Q for x in (one, other)]
    rho = torch.linalg.svdvals(bases[0].T @ bases[1]).clamp(0, 1)
    return float((1 - (1 - rho.square()).prod() ** (1 / len(rho))).sqrt())


def _diffusion_maps(context: BaselineContext, n_samples: int) -> list[Tensor]:
    """Of the output of each layer of the whole member, at the same tokens."""
    statistics = context.statistics
    streams = Streams(statistics.engine, statistics.rows)
    statistics.spend(streams.n_tokens * len(statistics.whole.layers))
    maps = []
    for states in streams.along(statistics.whole):
        tokens = torch.cat([x[kept] for x, kept in zip(states, streams.kept, strict=True)])
        if len(tokens) <= _N_AXES:
            raise ConfigError(
                f"calibration: mka compares layers by {_N_AXES + 1} tokens or more, and the texts "
                f"give {len(tokens)}; name longer texts"
            )
        step = max(1, len(tokens) // n_samples)
        maps.append(diffusion_map(tokens[::step][:n_samples].cpu()))
    return maps[1:]
