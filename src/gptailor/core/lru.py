"""What is kept within a limit in bytes. Knows nothing of what it is."""

from collections import OrderedDict
from typing import Generic, TypeVar

from gptailor.core.tailoring import LayerSpec

__all__ = ["LruCache"]

T = TypeVar("T")


class LruCache(Generic[T]):
    """Something for each layer, within a limit in bytes; the newest is kept in any case.

    Args:
        limit: Most bytes; None keeps everything.
    """

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._items: OrderedDict[LayerSpec, tuple[T, int]] = OrderedDict()
        self.n_bytes = 0

    def get(self, spec: LayerSpec) -> T | None:
        """What is kept for a layer, now the last to go."""
        if spec not in self._items:
            return None
        self._items.move_to_end(spec)
        return self._items[spec][0]

    def keep(self, spec: LayerSpec, item: T, n_bytes: int) -> None:
        """Keep something; let go of the longest unused until the limit holds."""
        self._items[spec] = (item, n_bytes)
        self.n_bytes += n_bytes
        while self._limit is not None and self.n_bytes > self._limit and len(self._items) > 1:
            _, (_, freed) = self._items.popitem(last=False)
            self.n_bytes -= freed
