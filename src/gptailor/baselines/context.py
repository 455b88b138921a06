"""BaselineContext: what a baseline is given."""

import itertools
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

from gptailor.baselines.member_statistics import Statistics
from gptailor.core.tailoring import LayerSpec, Tailoring
from gptailor.errors import ConfigError
from gptailor.searchers.space import Space

__all__ = ["BaselineContext"]


@dataclass(frozen=True, slots=True)
class BaselineContext:
    """Input of a baseline: statistics of a member, and how many layers are to be cut.

    Args:
        statistics: Of the whole member whose layers are cut.
        space: Number of layers, how many are cut, and which never are.
        seed: Of every random draw.
    """

    statistics: Statistics
    space: Space
    seed: int = 0

    @property
    def share(self) -> float:
        """The share of the layers that are cut; of their parameters, for a cut in width."""
        return self.space.n_removed / self.space.n_layers

    def cut(self, cuts: Iterable[int]) -> Tailoring:
        """The member without some layers; they are repaired afterwards."""
        return self.space.uniform(cuts, (self.statistics.member,))

    def of(self, layers: Sequence[LayerSpec]) -> Tailoring:
        """These layers between the member's embedding, norm and head."""
        return replace(self.statistics.whole, layers=tuple(layers))

    def may_merge(self, layers: Collection[int]) -> bool:
        """Whether layers are of one kind, and `keep` protects none of them."""
        kinds = self.statistics.engine.family.kinds
        return not self.space.keep & {*layers} and len({kinds[layer] for layer in layers}) == 1

    def neighbours(self, groups: Sequence[Collection[int]]) -> list[int]:
        """The indices of groups of layers that may be merged with the next one.

        Raises:
            ConfigError: There are none.
        """
        found = [
            index
            for index, (one, other) in enumerate(itertools.pairwise(groups))
            if self.may_merge({*one, *other})
        ]
        if not found:
            raise ConfigError(
                f"with {len(groups)} layers left and {self.space.n_kept} wanted no two neighbours "
                "may be merged: they are of other kinds, or 'keep' protects them; lower 'remove', "
                "or use another baseline"
            )
        return found

    def free(self, protected: Collection[int] = ()) -> tuple[int, ...]:
        """The layers that may be cut, without those that the baseline itself protects.

        Raises:
            ConfigError: They are fewer than are to be cut.
        """
        found = tuple(layer for layer in self.space.free if layer not in protected)
        if len(found) < self.space.n_removed:
            raise ConfigError(
                f"it may cut {len(found)} of {self.space.n_layers} layers only, and "
                f"{self.space.n_removed} are to be cut; lower 'remove', or use another baseline"
            )
        return found

    def lowest(self, scores: Sequence[float], protected: Collection[int] = ()) -> Tailoring:
        """Cut the layers with the lowest scores at once; of equal ones the earlier is cut.

        Raises:
            ConfigError: Fewer layers may be cut than are to be.
        """
        return self.cut(self.lowest_layers(scores, protected))

    def lowest_layers(self, scores: Sequence[float], protected: Collection[int] = ()) -> list[int]:
        """As many layers as are to be cut, those with the lowest scores; of equal ones the earlier.

        Raises:
            ConfigError: Fewer layers may be cut than are to be.
        """
        ranked = sorted(self.free(protected), key=scores.__getitem__)  # stable
        return ranked[: self.space.n_removed]

    def block(self, score: Callable[[int, int], float]) -> Tailoring:
        """Cut the block with the lowest ``score(start, end)``; of equal ones the first.

        Raises:
            ConfigError: Every block has a layer that is never cut.
        """
        n_removed = self.space.n_removed
        blocks = [(start, start + n_removed) for start in range(self.space.n_kept + 1)]
        able = [block for block in blocks if not self.space.keep & set(range(*block))]
        if not able:
            raise ConfigError(
                f"every block of {n_removed} layers has one that 'keep' protects; lower 'remove', "
                "or use another baseline"
            )
        return self.cut(range(*min(able, key=lambda block: score(*block))))
