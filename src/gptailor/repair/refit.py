"""Refit the last map of layers before cuts: from uncut members, or cut after cut.

The layer before a cut [s, e), or merged from the layers up to e, is changed so that the stream
after it is the one that enters layer e of the whole model. ReplaceMe (arXiv 2505.02819) fits a map
behind ``down_proj``; here ``down_proj`` itself is refitted, which contains that, with a ridge
towards its own weights.
"""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gptailor.core.lru_cache import LruCache
from gptailor.core.repair import fitted_from, gaps_of, put_back, without_repair
from gptailor.core.tailoring import LayerSpec, Source, Tailoring
from gptailor.engine.engine import Engine
from gptailor.engine.streams import Streams
from gptailor.errors import ConfigError
from gptailor.repair.last_map import LastMap, last_map
from gptailor.repair.regression import RIDGES, fitted_change

__all__ = ["Refitter", "whole_of"]

_HELD_OUT = 8  # of so many rows one is held out to choose lambda

States = Sequence[Tensor]  # one (B, T, H) a batch
Fitted = Mapping[str, Tensor]
"""A weight by its name in the layer, shaped as there, in the family's dtype, on the CPU."""


class Refitter:
    """Refits layers from calibration rows.

    Whole members' streams that `from_uncut` needs are kept on the engine's device: each member's
    are (n_layers + 1) * tokens * H numbers of the family's dtype.

    Args:
        engine: Has the members.
        rows: Token ids, two or more each. One of 8 is held out where there are several ridges,
            whichever batches the rows are in.
        ridges: See `fitted_change`; one is faster.
        cache_bytes: Most bytes of fitted tensors kept.

    Raises:
        ConfigError: The rows are too few to hold one out.
    """

    def __init__(
        self,
        engine: Engine,
        rows: Sequence[tuple[int, ...]],
        *,
        ridges: Sequence[float] = RIDGES,
        cache_bytes: int = 2**30,
    ) -> None:
        self.engine = engine
        if len(ridges) > 1 and len(rows) < _HELD_OUT:
            raise ConfigError(
                f"calibration: a refit needs {_HELD_OUT} rows or more, of which it holds one out, "
                f"and the texts give {len(rows)}; name more texts, or raise n_tokens"
            )
        self._ridges = ridges
        self.streams = Streams(engine, rows)
        self._held_out = [
            (self.streams.row_numbers(batch)[real.cpu()] % _HELD_OUT == _HELD_OUT - 1).to(real)
            for batch, real in enumerate(self.streams.real)
        ]
        self._maps: dict[object, LastMap] = {}
        self._whole: dict[str, list[list[Tensor]]] = {}  # member -> states by depth
        self._fitted = LruCache[LayerSpec, Fitted](cache_bytes)

    def check(self) -> None:
        """Refuse a family whose layers can't be refitted.

        Raises:
            ConfigError: Why not.
        """
        for position in range(self.engine.family.n_layers):
            self._map(position)

    def from_uncut(self, spec: LayerSpec) -> Fitted:
        """Refit a layer on streams of whole members, the rows divided evenly: see `fitted_from`.

        It is made once and kept: any candidate with this layer before a cut of this end uses it.

        Raises:
            ConfigError: Such a layer can't be refitted.
        """
        known = self._fitted.get(spec)
        if known is not None:
            return known
        assert spec.refit_to is not None, f"{spec} is not to be refitted"
        members = fitted_from(spec)
        before, wanted = (self._dealt(members, depth) for depth in (spec.start, spec.refit_to))
        fitted = self._refitted(spec.with_repair(), before, wanted)
        self._fitted.keep(spec, fitted, sum(tensor.nbytes for tensor in fitted.values()))
        return fitted

    def cut_after_cut(
        self, tailoring: Tailoring, *, later_layers: bool = False, fitted: Tailoring | None = None
    ) -> Tailoring:
        """Refit each cut on the model repaired so far, towards the same model without cuts.

        A layer before a cut keeps what other fitted tensors it has.

        Args:
            tailoring: Its own repair is replaced.
            later_layers: Also refit each layer behind the first cut to the whole model's stream,
                unless it has fitted tensors of its own.
            fitted: A whole model of which the tailoring has layers, see `whole_of`.

        Returns:
            The tailoring; its refitted layers name the fitted tensors, which the family has.

        Raises:
            ConfigError: A layer can't be refitted.
        """
        n_layers = self.engine.family.n_layers
        plain = without_repair(tailoring)
        cuts = gaps_of(plain, n_layers)
        if not cuts:
            return plain
        ends = {cut.before: cut.end for cut in cuts}
        model = whole_of(plain, n_layers, fitted)
        whole = self.streams.along(model)
        depth, wanted = 0, next(whole)
        states: States = wanted
        layers: list[LayerSpec] = []
        cut = None in ends  # whether the model is another one than the whole so far
        for index, spec in enumerate(plain.layers):
            end = ends.get(index, spec.start + 1)
            while depth < end:
                depth, wanted = depth + 1, next(whole)
            if index in ends or (cut and later_layers and spec.fitted is None):
                own = {} if spec.fitted is None else self.engine.family.fitted.get(spec.fitted)
                refitted = self._refitted(spec, states, wanted)
                digest = self.engine.family.fitted.add({**own, **refitted})
                spec = spec.with_repair(refit_to=end, fitted=digest)
            cut = cut or spec != model.layers[spec.start]
            layers.append(spec)
            states = self.streams.run(spec, states) if cut else wanted
        return replace(tailoring, layers=tuple(layers))

    def _states(self, member: str) -> list[list[Tensor]]:
        """A whole member's streams: by depth, then by batch."""
        if member not in self._whole:
            whole = Tailoring.whole(member, self.engine.family.n_layers)
            self._whole[member] = list(self.streams.along(whole))
        return self._whole[member]

    def _dealt(self, members: Sequence[str], depth: int) -> States:
        """Whole members' streams at a depth: the rows of all batches from each in turn."""
        turns = itertools.cycle([self._states(member)[depth] for member in members])
        return [
            torch.stack([next(turns)[batch][row] for row in range(len(real))])
            for batch, real in enumerate(self.streams.real)
        ]

    def _map(self, position: int) -> LastMap:
        kinds = self.engine.family.kinds
        kind = kinds[position]
        if kind not in self._maps:  # of the first layer of its kind, whichever is asked for
            self._maps[kind] = last_map(self.streams, kinds.index(kind))
        return self._maps[kind]

    @torch.inference_mode()
    def _refitted(self, spec: LayerSpec, before: States, wanted: States) -> Fitted:
        """The fitted weight of a layer: given what enters it, and the streams wanted after it."""
        last = self._map(spec.position)
        family = self.engine.family
        own = self.engine.layers.get(spec).get_submodule(last.name).get_parameter("weight")
        weight = last.oriented(own).float()  # (H, F)
        change = fitted_change(self._tokens(spec, last, before, wanted), weight, self._ridges)
        new = last.oriented(weight + change).to(family.dtype)
        return {last.weight: new.contiguous().cpu()}

    def _tokens(
        self, spec: LayerSpec, last: LastMap, before: States, wanted: States
    ) -> Iterator[tuple[Tensor, Tensor, Tensor, Tensor]]:
        """Inputs of the last map, what its outputs are to gain, weights 1 / |wanted|^2, held out.

        First tokens are among them: a layer that makes or ends their large activations must go on
        doing so, and by the weights they count no more than others.
        """
        tapped = self.streams.tapped(spec, before, last.name)
        batches = zip(self.streams.real, self._held_out, wanted, tapped, strict=True)
        for real, held_out, stream, (inputs, after) in batches:
            target = stream[real].float()  # (n, H)
            missing = (target - after[real].float()) / last.factor
            weights = target.square().sum(dim=-1).clamp_min(1e-12).reciprocal()
            yield inputs[real], missing, weights, held_out


def whole_of(tailoring: Tailoring, n_layers: int, fitted: Tailoring | None = None) -> Tailoring:
    """The same model with its cut layers put back, each made as the kept layer before it is.

    Behind a layer that is as in the whole model `fitted` they are those of this model. Those before
    the first kept layer are made as that one; no layer has fitted tensors. In place of a layer
    merged from several positions are its member's own layers.
    """
    plain = without_repair(tailoring)
    models = [
        LayerSpec((Source(spec.sources[0].member, spec.start),))
        if spec.spans
        else spec.with_repair()
        for spec in plain.layers
    ]
    by_position = {model.position: model for model in models}
    for cut in gaps_of(plain, n_layers):
        model = models[cut.before or 0]
        for position in range(cut.start, cut.end):
            by_position[position] = put_back(model, position, fitted)
    return replace(tailoring, layers=tuple(by_position[each] for each in sorted(by_position)))
