"""Where a layer comes from, as one name and a few numbers: for searchers that know only those.

A source's name says the members and, of several, how they are merged; the numbers are the merge
method's tunable parameters. ``linear`` merges in equal parts here. Knows nothing of scores.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gptailor.core.merge_spec import merge_spec
from gptailor.core.params import Range
from gptailor.core.tailoring import BASE, LayerSpec
from gptailor.searchers.initial_designs import patterns
from gptailor.searchers.space import Space, on_step

__all__ = ["Sources"]

_Key = tuple[tuple[str, ...], str | None]


@dataclass(frozen=True, slots=True)
class Sources:
    """The names of all sources that one layer can have in a space.

    Args:
        space: What is possible.
    """

    space: Space

    @property
    def names(self) -> tuple[str, ...]:
        """Every source, the base first."""
        return tuple(self._keys())

    def params(self) -> dict[str, Range]:
        """Every number that some source has: ``method.parameter`` to its limits."""
        return {
            f"{method}.{name}": limits
            for method in self.space.methods
            if self.space.merges
            for name, limits in merge_spec(method).params.items()
            if limits.tunable
        }

    def users(self, param: str) -> tuple[str, ...]:
        """The sources that have one of `params`."""
        method = param.partition(".")[0]
        return tuple(name for name, (_, how) in self._keys().items() if how == method)

    def spec(self, layer: int, name: str, numbers: Mapping[str, float]) -> LayerSpec:
        """Turn a name and numbers into a LayerSpec.

        Args:
            layer: The position.
            name: One of `names`.
            numbers: For each of `params` that the name has, a value within its span.
        """
        members, method = self._keys()[name]
        if method is None:
            return self.space.spec(layer, members)
        values = {}
        for param in merge_spec(method).params:
            value = numbers.get(f"{method}.{param}")
            if value is not None:
                limits = merge_spec(method).params[param]
                low, high = limits.span
                values[param] = on_step(limits, (value - low) / (high - low))
        return self.space.spec(layer, members, method, **values)

    def name(self, spec: LayerSpec) -> tuple[str, dict[str, float]] | None:
        """Turn a LayerSpec into its name and numbers; None where it has none."""
        members = tuple(source.member for source in spec.sources)
        wanted = (() if members == (BASE,) else members, spec.method)
        params = dict(spec.params)
        for name, (ours, method) in self._keys().items():
            if (ours if method is None else tuple(sorted(ours)), method) == wanted:
                keys = {
                    key: key.partition(".")[2] for key in self.params() if name in self.users(key)
                }
                numbers = {key: params[param] for key, param in keys.items()}
                return name, {
                    key: float(number)
                    for key, number in numbers.items()
                    if not isinstance(number, tuple)
                }
        return None

    def _keys(self) -> dict[str, _Key]:
        keys: dict[str, _Key] = {}
        for members in patterns(self.space):
            if len(members) < 2:
                keys[members[0] if members else BASE] = (members, None)
                continue
            for method in self.space.methods:
                most = merge_spec(method).max_sources
                if most is None or len(members) <= most:
                    keys[f"{method}({','.join(members)})"] = (members, method)
        return keys
