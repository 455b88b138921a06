"""The space that searchers propose from: which layers are cut, and the sources of each kept one.

A kept layer stays at its position: layer l of the result is some member's layer l, or merged from
several variants' layers l. Embedding, norm and head each come from one member. Every tailoring made
here has the right number of layers and is one that the caller allows.
"""

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import KW_ONLY, dataclass

import numpy as np
from numpy.random import Generator

from gptailor.core.merge_spec import MergeSpec, merge_spec
from gptailor.core.params import Range
from gptailor.core.repair import Repairer
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring, Value
from gptailor.errors import ConfigError

__all__ = [
    "Space",
    "complexity",
    "kept_positions",
    "layers_by_position",
    "on_step",
    "shares",
]

_TRIES = 200  # draws that `allowed` refuses, before giving up
_STEPS = 100  # of a parameter's span: so equal merged layers recur, and are cached


@dataclass(frozen=True, slots=True)
class Space:
    """All tailorings of one family that cut a given number of layers.

    Args:
        n_layers: Layers of the base.
        n_removed: Layers to cut.
        variants: Names of the variants; without any, layers are only cut, and one can't be merged.
        methods: Merge methods to choose from; none for no merging.
        keep: Positions that are never cut.
        kinds: The kind of layer at each position. Where they repeat with a period and `allowed` is
            given, whole periods are cut together in half of the draws.
        tied: Whether the head is the embedding; then both come from one member.
        allowed: Whether a tailoring can be used (exported, say); None for no limit.
        outer_variants: Variants that embedding, norm and head may come from; all when None. Leave
            out those whose parts equal the base's: taking them changes nothing and costs a trial.
        repair: Repairs the cuts of every tailoring made here; None for no repair.
        fitted: The whole model with fitted merging coefficients, which a search starts from; None
            where none were fitted.

    Raises:
        ConfigError: More layers are to be cut than may be, or a method is unknown.
    """

    n_layers: int
    n_removed: int
    variants: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    _: KW_ONLY
    keep: frozenset[int] = frozenset()
    kinds: tuple[Hashable, ...] | None = None
    tied: bool = False
    allowed: Callable[[Tailoring], bool] | None = None
    outer_variants: tuple[str, ...] | None = None
    repair: Repairer | None = None
    fitted: Tailoring | None = None

    def __post_init__(self) -> None:
        for method in self.methods:
            merge_spec(method)  # refuses an unknown one
        if not 0 <= self.n_removed < self.n_layers:
            raise ConfigError(
                f"{self.n_removed} layers are to be cut from {self.n_layers}; "
                f"cut from 0 to {self.n_layers - 1}"
            )
        if self.n_removed > len(self.free):
            raise ConfigError(
                f"{self.n_removed} layers are to be cut, but {self.n_layers - len(self.free)} of "
                f"{self.n_layers} are protected; cut {len(self.free)} at most"
            )

    @property
    def members(self) -> tuple[str, ...]:
        """The base and the variants."""
        return (BASE, *self.variants)

    @property
    def outer_members(self) -> tuple[str, ...]:
        """Members that embedding, norm and head may come from."""
        return self.members if self.outer_variants is None else (BASE, *self.outer_variants)

    @property
    def free(self) -> tuple[int, ...]:
        """Positions that may be cut."""
        return tuple(layer for layer in range(self.n_layers) if layer not in self.keep)

    @property
    def n_kept(self) -> int:
        """Layers of every tailoring in this space."""
        return self.n_layers - self.n_removed

    @property
    def merges(self) -> bool:
        """Whether any layer can be merged."""
        return len(self.variants) > 1 and bool(self.methods)

    @property
    def period(self) -> int:
        """Number of layers after which the kinds repeat; 1 where all are alike or unknown."""
        kinds = self.kinds or (None,) * self.n_layers
        for period in range(1, self.n_layers // 2 + 1):
            if all(kinds[i] == kinds[i - period] for i in range(period, self.n_layers)):
                return period
        return 1

    def methods_for(self, n_sources: int) -> list[str]:
        """Merge methods that can merge `n_sources` sources."""
        limits = {method: merge_spec(method).max_sources for method in self.methods}
        return [method for method, most in limits.items() if most is None or n_sources <= most]

    def without(self, cuts: Iterable[int]) -> tuple[int, ...]:
        """Positions that stay when `cuts` are cut."""
        gone = frozenset(cuts)
        return tuple(layer for layer in range(self.n_layers) if layer not in gone)

    def tailoring(
        self, layers: Mapping[int, LayerSpec], embedding: LayerSpec, norm: LayerSpec
    ) -> Tailoring:
        """Make a tailoring of the layers by position, and repair its cuts.

        A head that is not tied is the norm's.
        """
        head = embedding if self.tied else norm
        ordered = tuple(layers[layer] for layer in sorted(layers))
        tailoring = Tailoring(ordered, embedding=embedding, norm=norm, head=head)
        return tailoring if self.repair is None else self.repair(tailoring)

    def uniform(
        self,
        cuts: Iterable[int],
        members: tuple[str, ...] = (),
        method: str | None = None,
        **params: Value,
    ) -> Tailoring:
        """Give every kept layer the same sources: the base, one variant, or a merge of several.

        Args:
            cuts: Positions to cut.
            members: None for the base; several are merged.
            method: The merge method; the first of `methods` when None.
            params: The method's parameters.
        """
        layers = {
            layer: self.spec(layer, members, method, **params) for layer in self.without(cuts)
        }
        lone = members[0] if len(members) == 1 and members[0] in self.outer_members else BASE
        part = LayerSpec((Source(lone),))
        return self.tailoring(layers, part, part)

    def cut(self, whole: Tailoring, cuts: Iterable[int]) -> Tailoring:
        """Cut more layers of a tailoring, given by their positions in the base."""
        gone, kept = frozenset(cuts), layers_by_position(whole)
        layers = {layer: spec for layer, spec in kept.items() if layer not in gone}
        return self.tailoring(layers, whole.embedding, whole.outer_parts["norm"])

    def spec(
        self, layer: int, members: tuple[str, ...] = (), method: str | None = None, **params: Value
    ) -> LayerSpec:
        """Make the LayerSpec of one position; arguments as in `uniform`."""
        sources = tuple(Source(member, layer) for member in members or (BASE,))
        if len(sources) == 1:
            return LayerSpec(sources)
        return LayerSpec(sources, method or self.methods[0], tuple(params.items()))

    def accepts(self, tailoring: Tailoring) -> bool:
        """Whether the caller allows this tailoring."""
        return self.allowed is None or self.allowed(tailoring)

    def random(self, rng: Generator) -> Tailoring:
        """Draw a tailoring: a uniform set of cuts, and `random_spec` for each kept layer.

        Raises:
            ConfigError: `allowed` refused every one drawn.
        """
        for _ in range(_TRIES):
            kept = self.without(self.random_cuts(rng))
            layers = {layer: self.random_spec(layer, rng) for layer in kept}
            tailoring = self.tailoring(layers, self.random_outer(rng), self.random_outer(rng))
            if self.accepts(tailoring):
                return tailoring
        raise ConfigError(
            f"none of {_TRIES} tailorings drawn with {self.n_removed} of {self.n_layers} layers "
            "cut can be used with this family; cut another number of layers"
        )

    def random_cuts(self, rng: Generator) -> tuple[int, ...]:
        """Draw which layers to cut; every set of free positions is as likely as any other.

        Where kinds of layers repeat and not every set is allowed, half of the draws are of whole
        periods instead.
        """
        if self.allowed is not None and self.period > 1 and rng.random() < 0.5:
            whole = self._whole_periods(rng)
            if whole is not None:
                return whole
        cuts = rng.choice(self.free, size=self.n_removed, replace=False)
        return tuple(sorted(int(layer) for layer in cuts))

    def random_spec(self, layer: int, rng: Generator) -> LayerSpec:
        """Draw one layer: the base's, one variant's and a merge are equally likely."""
        kinds = ["base"] + ["taken"] * bool(self.variants) + ["merged"] * self.merges
        kind = kinds[rng.integers(len(kinds))]
        if kind == "base":
            return self.spec(layer)
        if kind == "taken":
            return self.spec(layer, (self.variants[rng.integers(len(self.variants))],))
        return self.random_merge(layer, rng)

    def random_merge(self, layer: int, rng: Generator) -> LayerSpec:
        """Draw a merge: method, two or more variants, and parameters within their spans."""
        method = self.methods[rng.integers(len(self.methods))]
        merge = merge_spec(method)
        most = min(len(self.variants), merge.max_sources or len(self.variants))
        size = int(rng.integers(2, most + 1))
        chosen = rng.choice(len(self.variants), size=size, replace=False)
        if merge.symmetric:
            chosen.sort()
        members = tuple(self.variants[index] for index in chosen)
        return self.spec(layer, members, method, **_random_params(merge, size, rng))

    def random_outer(self, rng: Generator) -> LayerSpec:
        """Draw the member of an outer part."""
        return LayerSpec((Source(self.outer_members[rng.integers(len(self.outer_members))]),))

    def period_runs(self, layers: list[int]) -> list[list[int]]:
        """Runs of neighbours as long as one period, without layers that are never cut."""
        starts = range(len(layers) - self.period + 1)
        runs = [layers[start : start + self.period] for start in starts]
        return [run for run in runs if not self.keep & set(run)]

    def _whole_periods(self, rng: Generator) -> tuple[int, ...] | None:
        """Cut runs of one period each, and the remainder at the end, so that the pattern stays."""
        left = list(range(self.n_layers))
        for _ in range(self.n_removed // self.period):
            runs = self.period_runs(left)
            if not runs:
                return None
            gone = runs[rng.integers(len(runs))]
            left = [layer for layer in left if layer not in gone]
        left = left[: self.n_kept]
        return self.without(left) if self.keep <= set(left) else None


def complexity(tailoring: Tailoring) -> int:
    """Number of sources that are not the base; of equal candidates the simpler is preferred."""
    specs = [*tailoring.layers, *tailoring.outer_parts.values()]
    return sum(source.member != BASE for spec in specs for source in spec.sources)


def kept_positions(tailoring: Tailoring) -> tuple[int, ...]:
    """Positions of the layers in the base, in order."""
    return tuple(spec.position for spec in tailoring.layers)


def layers_by_position(tailoring: Tailoring) -> dict[int, LayerSpec]:
    """Position in the base to LayerSpec without its repair, in order."""
    plain = (spec.with_repair() for spec in tailoring.layers)
    return dict(zip(kept_positions(tailoring), plain, strict=True))


def _random_params(merge: MergeSpec, n_sources: int, rng: Generator) -> dict[str, Value]:
    """Draw a method's parameters, each uniform over the span that a search may propose."""
    params: dict[str, Value] = {
        name: on_step(limits, float(rng.random()))
        for name, limits in merge.params.items()
        if limits.tunable
    }
    if merge.weighted:
        params["weights"] = shares(rng.dirichlet(np.ones(n_sources)))
    return params


def on_step(limits: Range, share: float) -> float:
    """The value at a fraction of the span, rounded to the nearest of its steps."""
    low, high = limits.span
    value = low + (high - low) * round(min(max(share, 0.0), 1.0) * _STEPS) / _STEPS
    return float(round(value)) if limits.integer else round(value, 6)


def shares(weights: np.ndarray) -> tuple[float, ...]:
    """Weights relative to the largest, in whole hundredths."""
    whole = np.round(np.maximum(weights, 0.0) / np.max(weights) * _STEPS)
    return tuple(float(weight) for weight in whole)
