"""Remove neurons that share much information with others.

A port of Huang, Song and Pao 2024, "Large Language Model Pruning",
https://arxiv.org/abs/2406.00030, who report BERT-tiny on GLUE only.
"""

from typing import Annotated

import numpy as np
import torch
from numpy.random import Generator
from torch import Tensor

from gptailor.baselines.context import BaselineContext
from gptailor.baselines.width.layerwise import inputs_of, width_of
from gptailor.core.params import Range
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.engine.streams import Streams
from gptailor.family.family import layer_weights
from gptailor.family.gated_layer import DOWN

__all__ = ["huang", "mutual_information", "redundant", "squared_kernels"]

_N_TOKENS = 8192  # that the divergence of each draw is measured on
_FIRST = 0.9  # quantile of the first pairs' information that the threshold begins with


def huang(
    context: BaselineContext,
    *,
    draws: Annotated[int, Range(1, 100)] = 3,
    samples: Annotated[int, Range(8, 1024)] = 128,
) -> Tailoring:
    """Drop one neuron of random pairs that share much information; of several draws the best.

    Mutual information is estimated from activations by matrix-based Renyi entropy. The draw whose
    outputs diverge least from the whole member's is the result. No other weight changes.

    Args:
        context: What is to be pruned.
        draws: Of pairs, each with a generator of its own.
        samples: Tokens whose activations are compared.

    Differs from the paper: the entropy is of order 2, which needs no eigenvalues; the kernel's
    width is Silverman's, and the threshold falls as far as the number of neurons needs, where the
    authors tune both; neurons are not clustered before, which only saves time. The divergence is
    over the likeliest tokens, see `Statistics.divergences`.

    Raises:
        FamilyError: Heads and neurons can't be taken out of the family's layers.
    """
    statistics, rng = context.statistics, np.random.default_rng(context.seed)
    family = statistics.engine.family
    n_neurons = width_of(context, context.share, heads=False).n_neurons
    streams = Streams(statistics.engine, statistics.rows)
    chosen: Tensor | None = None
    generators, drawn = rng.spawn(draws), list[list[LayerSpec]]([] for _ in range(draws))
    for spec, states in zip(statistics.whole.layers, streams.along(statistics.whole), strict=False):
        inputs = inputs_of(streams, spec, states, DOWN)  # (T, F)
        if chosen is None:
            chosen = torch.from_numpy(rng.permutation(len(inputs))[:samples])
        kernels = squared_kernels(inputs[chosen].cpu())  # of one layer: they are large
        for specs, generator in zip(drawn, generators, strict=True):
            weight = layer_weights(family, spec, family.dtype)[DOWN].clone()
            weight[:, redundant(kernels, n_neurons, len(chosen), generator)] = 0
            specs.append(spec.with_repair(fitted=family.fitted.add({DOWN: weight})))
    statistics.spend(2 * streams.n_tokens * len(statistics.whole.layers))
    tailorings = [context.of(specs) for specs in drawn]
    divergences = statistics.divergences(tailorings, statistics.minibatch(rng, _N_TOKENS))
    best = tailorings.pop(divergences.index(min(divergences)))
    kept = {spec.fitted for spec in best.layers}
    others = {spec.fitted for tailoring in tailorings for spec in tailoring.layers}
    family.fitted.drop(others - kept)
    return best


def squared_kernels(activations: Tensor) -> Tensor:
    """Squared Gaussian kernels of each neuron's activations at all pairs of samples.

    Args:
        activations: (n, F); standardised here. The kernel's width is ``1.06 * n ** -0.2``.

    Returns:
        ``exp(-(x_i - x_j)^2 / width^2)`` for i < j, (F, n * (n - 1) / 2).
    """
    n = len(activations)
    spread = activations.std(0).clamp_min(torch.finfo(activations.dtype).tiny)
    first, second = torch.triu_indices(n, n, offset=1)
    distances = ((activations / spread)[first] - (activations / spread)[second]).square()
    return torch.exp(-distances / (1.06 * n**-0.2) ** 2).T.contiguous()


def mutual_information(one: Tensor, other: Tensor, n: int) -> Tensor:
    """Matrix-based Renyi mutual information of order 2, in bits, of each row's pair of neurons.

    ``S(A) + S(B) - S(A * B)``, where A and B are kernel matrices of n samples divided by their
    traces and ``S(A) = -log2 tr(A^2)`` (Sanchez Giraldo et al. 2015,
    https://arxiv.org/abs/1211.2459). `one` and `other` are rows of `squared_kernels`.
    """

    def entropy(squares: Tensor) -> Tensor:
        return -torch.log2((2 * squares.sum(1) + n) / n**2)  # 1 on the diagonal

    return entropy(one) + entropy(other) - entropy(one * other)


def redundant(kernel: Tensor, n_removed: int, n: int, rng: Generator) -> Tensor:
    """Choose neurons to remove: pair all that are left at random, drop one of each alike pair.

    Pairs are alike if their information is above a threshold, which falls where none is.

    Args:
        kernel: `squared_kernels` of n samples.
        n_removed: How many go.
        n: The number of samples.
        rng: Draws the pairs.
    """
    left, gone = torch.arange(len(kernel)), []
    threshold = float("inf")
    while n_removed:
        order = left[torch.from_numpy(rng.permutation(len(left)))]
        half = len(order) // 2
        first, second = order[:half], order[half : 2 * half]
        shared = mutual_information(kernel[first], kernel[second], n)
        start = float(shared.quantile(_FIRST)) if threshold == float("inf") else threshold
        threshold = min(start, float(shared.max()))
        drop = second[shared >= threshold][:n_removed]
        gone.append(drop)
        left = left[~torch.isin(left, drop)]
        n_removed -= len(drop)
    return torch.cat(gone) if gone else left[:0]
