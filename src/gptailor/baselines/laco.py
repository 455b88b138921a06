"""LaCo: collapse layers into the one before them, from the last layers on.

Yang et al. 2024, https://arxiv.org/abs/2402.11187.
"""

import re
from collections.abc import Callable, Sequence
from typing import Annotated

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from gptailor.baselines.context import BaselineContext
from gptailor.core.params import Range
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError

__all__ = ["laco", "laco_released"]

Merged = tuple[tuple[int, int], ...]
"""A merged layer: the member's layers and the factor of each; or, as the authors' code has it, the
layer of the norms with 0 and the layer of the projections with 1."""

_N_STEPS = 12  # halvings of the threshold's range [-1, 1]
_N_ROWS = 8
_NORM = re.compile(r"norm|(^|\.)ln_")  # in the name of a tensor
_Merged = Annotated[int, Range(2, 1000)]


def laco(context: BaselineContext, *, n_merged: _Merged = 4) -> Tailoring:
    """Collapse windows of layers into their first layers, from the end to the start.

    ``W_l + sum over k of (W_{l+k} - W_l)``, norms included, for a window of `n_merged` layers that
    moves from the end to the start. A merge is kept if the final stream is more like the whole
    member's than a threshold, by the cosine over all tokens together; windows may meet layers that
    are merged already. The threshold is the highest, to 1/2048, at which enough layers are gone;
    then it stops, so the last window may be smaller.

    Args:
        context: What is to be cut.
        n_merged: Layers that become one.

    Differs from the paper: it gives the threshold and takes the number of layers that comes out;
    the final stream is taken before the final norm, of calibration rows without their first tokens
    instead of five sentences, as one vector for all. A window never has the last layer.

    Raises:
        ConfigError: Not even the lowest threshold cuts enough layers.
    """
    return _Walk(context, n_merged, _sum_of_differences).tailoring()


def laco_released(context: BaselineContext, *, n_merged: _Merged = 4) -> Tailoring:
    """As `laco`, with what the authors' code computes in place of the merge.

    Its loop takes each difference from the layer that the steps before have changed, so the sum
    telescopes to ``W_{l+m}``; norms are not touched. So layers l to l+m-1 are cut, and the norms of
    l take the place of those of l+m.

    Differs from the authors' code in what `laco` says of the final stream, and in the way of the
    windows: there a window may also be shorter and reach the last layer, once one was merged. They
    merge 7 layers of Llama-2-13B.

    Raises:
        ConfigError: Not even the lowest threshold cuts enough layers.
    """
    return _Walk(context, n_merged, _norms_and_projections).tailoring()


class _Walk:
    """Merges windows from the last to the first, at different thresholds."""

    def __init__(
        self,
        context: BaselineContext,
        n_merged: int,
        merge: Callable[[Sequence[Merged]], Merged],
    ) -> None:
        self._context, self._n_merged, self._merge = context, n_merged, merge
        statistics = context.statistics
        self._streams = Streams(statistics.engine, statistics.rows[:_N_ROWS])
        self._known: dict[tuple[Merged, ...], float] = {}
        self._whole = self._final(statistics.whole)

    def tailoring(self) -> Tailoring:
        """The result at the highest threshold that cuts enough."""
        low, high = -1.0, 1.0
        found = self._at(low)
        if len(found) > self._context.space.n_kept:
            raise ConfigError(
                f"windows of {self._n_merged} layers leave {len(found)} layers at least (only "
                "layers of one kind are merged, and none that 'keep' protects), and "
                f"{self._context.space.n_kept} are to stay; lower 'remove', give another "
                "n_merged, or use another baseline"
            )
        for _ in range(_N_STEPS):
            middle = (low + high) / 2
            trial = self._at(middle)
            if len(trial) == self._context.space.n_kept:
                low, found = middle, trial
            else:
                high = middle
        return self._made(found)

    def _at(self, threshold: float) -> list[Merged]:
        """The layers that are left at a threshold."""
        space = self._context.space
        layers: list[Merged] = [((layer, 1),) for layer in range(space.n_layers)]
        start = len(layers) - 1 - self._n_merged
        while start >= 0 and len(layers) > space.n_kept:
            stop = start + min(self._n_merged, len(layers) - space.n_kept + 1)
            trial = [*layers[:start], self._merge(layers[start:stop]), *layers[stop:]]
            window = {layer for merged in layers[start:stop] for layer, _ in merged}
            if self._context.may_merge(window) and self._likeness(trial) > threshold:
                layers = trial
            start = min(start, len(layers) - self._n_merged) - 1
        return layers

    def _likeness(self, layers: Sequence[Merged]) -> float:
        key = tuple(layers)
        if key not in self._known:
            tailoring = self._made(layers)
            final = self._final(tailoring)
            self._known[key] = float(cosine_similarity(final, self._whole, dim=0))
            fitted = self._context.statistics.engine.family.fitted
            fitted.drop(spec.fitted for spec in tailoring.layers)  # the result makes its own again
        return self._known[key]

    def _final(self, tailoring: Tailoring) -> Tensor:
        """The stream after the last layer at all tokens that count, (T * H) in float64."""
        statistics = self._context.statistics
        statistics.spend(self._streams.n_tokens * len(tailoring.layers))
        for states in self._streams.along(tailoring):
            last = states
        pairs = zip(last, self._streams.kept, strict=True)
        return torch.cat([states[kept].double().flatten() for states, kept in pairs])

    def _made(self, layers: Sequence[Merged]) -> Tailoring:
        return self._context.of(tuple(map(self._spec, layers)))

    def _spec(self, merged: Merged) -> LayerSpec:
        """The layer as a merge of sources, or with fitted tensors where no merge says it."""
        member = self._context.statistics.member
        family = self._context.statistics.engine.family
        factors = dict(merged)
        last = merged[-1][0]
        own = LayerSpec((Source(member, last),))
        if len(factors) == 1:
            return own
        if factors == {merged[0][0]: 0, last: 1}:
            first = family.layer(Source(member, merged[0][0]))
            norms = {name: tensor for name, tensor in first.items() if _NORM.search(name)}
            return own.with_repair(fitted=family.fitted.add(norms)) if norms else own
        sources = [layer for layer, factor in factors.items() if factor == 1]
        bases = [layer for layer in factors if layer not in sources]
        if [factors[layer] for layer in bases] == [1 - len(sources)]:
            names = [f"{member}:{layer}" for layer in sources]
            base = f"{member}:{bases[0]}"
            return LayerSpec.of(*names, merge="task_arithmetic", base=base, scale=1.0)
        layers = {layer: family.layer(Source(member, layer)) for layer in factors}
        sums = {
            name: sum(factors[layer] * layers[layer][name].float() for layer in factors)
            for name in layers[last]
        }
        tensors = {name: torch.as_tensor(found).to(family.dtype) for name, found in sums.items()}
        stands = LayerSpec((Source(member, merged[0][0]),))  # where other merges do
        return stands.with_repair(fitted=family.fitted.add(tensors))


def _sum_of_differences(window: Sequence[Merged]) -> Merged:
    """``sum of W_{l+k} - (m - 1) W_l`` over the m layers behind the first."""
    factors: dict[int, int] = {}
    for merged, times in zip(window, [2 - len(window), *(1 for _ in window[1:])], strict=True):
        for layer, factor in merged:
            factors[layer] = factors.get(layer, 0) + times * factor
    return tuple(sorted((layer, factor) for layer, factor in factors.items() if factor))


def _norms_and_projections(window: Sequence[Merged]) -> Merged:
    """The first's norms and the last's projections."""
    norms, projections = window[0][0][0], window[-1][-1][0]
    return ((norms, 0), (projections, 1))
