"""Tailorings as flat parameters, for optimisers that know only numbers and categories."""

from collections.abc import Iterable, Mapping

from gptailor.core.merge_spec import merge_spec
from gptailor.core.params import Range
from gptailor.core.tailoring import BASE, LayerSpec, Source, Tailoring
from gptailor.searchers.initial_designs import patterns
from gptailor.searchers.space import Space, layers_by_position, on_step

__all__ = ["ParamCodec"]


class ParamCodec:
    """Convert tailorings to parameters and back.

    Layer 3, for one, has ``cut_3``, whether it is cut; ``source_3``, one of `source_names`; and
    ``task_arithmetic.scale_3``, one of `params`, where its source is a merge by that method. The
    outer parts are ``embedding`` and ``norm``. ``linear`` merges in equal parts.

    Args:
        space: What is possible.
    """

    def __init__(self, space: Space) -> None:
        self.space = space
        self._sources = dict(_sources(space))
        self._names = {
            (members if method is None else tuple(sorted(members)), method): name
            for name, (members, method) in self._sources.items()
        }
        self.source_names = tuple(self._sources)
        self.params: dict[str, Range] = {
            f"{method}.{name}": limits
            for method in (space.methods if space.merges else ())
            for name, limits in merge_spec(method).params.items()
            if limits.tunable
        }
        self.outer_parts = ("embedding", "norm") if len(space.outer_members) > 1 else ()

    def merges_by(self, param: str) -> tuple[str, ...]:
        """Names of the sources that have one of `params`."""
        method = param.rpartition(".")[0]
        return tuple(name for name, (_, how) in self._sources.items() if how == method)

    def encodes(self, tailoring: Tailoring) -> bool:
        """Whether every layer of a tailoring has a source name."""
        return all(self._name(spec) is not None for spec in tailoring.layers)

    def values(self, tailoring: Tailoring, *, kept: float, cut: float) -> dict[str, float | str]:
        """Convert a tailoring to parameters; a layer without a source name has none.

        ``cut_3`` is `kept` or `cut`.
        """
        layers = layers_by_position(tailoring)
        values: dict[str, float | str] = {
            f"cut_{layer}": kept if layer in layers else cut for layer in self.space.free
        }
        for layer, spec in layers.items():
            name = self._name(spec)
            if name is not None and len(self.source_names) > 1:
                values[f"source_{layer}"] = name
            for param, value in spec.params if name is not None else ():
                if f"{spec.method}.{param}" in self.params and not isinstance(value, tuple):
                    values[f"{spec.method}.{param}_{layer}"] = float(value)
        outer = {"embedding": tailoring.embedding, "norm": tailoring.outer_parts["norm"]}
        return values | {part: outer[part].sources[0].member for part in self.outer_parts}

    def tailoring(self, values: Mapping[str, object], order: Iterable[int]) -> Tailoring:
        """Convert parameters, those without effect may be absent, to a tailoring.

        The first layers of `order` are cut, as many as the space removes.
        """
        cuts = list(order)[: self.space.n_removed]
        layers = {layer: self._spec(layer, values) for layer in self.space.without(cuts)}
        embedding, norm = (
            LayerSpec((Source(str(values.get(part, self.space.outer_members[0]))),))
            for part in ("embedding", "norm")
        )
        return self.space.tailoring(layers, embedding, norm)

    def _name(self, spec: LayerSpec) -> str | None:
        members = tuple(source.member for source in spec.sources)
        return self._names.get((() if members == (BASE,) else members, spec.method))

    def _spec(self, layer: int, values: Mapping[str, object]) -> LayerSpec:
        members, method = self._sources[str(values.get(f"source_{layer}", self.source_names[0]))]
        params = {}
        for param, limits in merge_spec(method).params.items() if method is not None else ():
            value = values.get(f"{method}.{param}_{layer}")
            if isinstance(value, int | float):
                low, high = limits.span
                params[param] = on_step(limits, (float(value) - low) / (high - low))
        return self.space.spec(layer, members, method, **params)


def _sources(space: Space) -> Iterable[tuple[str, tuple[tuple[str, ...], str | None]]]:
    """The name of each source of a layer, its members and its merge method; the base first."""
    for members in patterns(space):
        if len(members) < 2:
            yield members[0] if members else BASE, (members, None)
            continue
        for method in space.methods_for(len(members)):
            yield f"{method}({','.join(members)})", (members, method)
