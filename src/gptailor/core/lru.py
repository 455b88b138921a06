"""LRU cache bounded in bytes."""

from collections import OrderedDict
from typing import Generic, TypeVar

from gptailor.core.layer_spec import LayerSpec

__all__ = ["LruCache"]

T = TypeVar("T")


class LruCache(Generic[T]):
    """One item per layer, of `limit` bytes at most or without limit; the newest always stays."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._items: OrderedDict[LayerSpec, tuple[T, int]] = OrderedDict()
        self.n_bytes = 0

    def get(self, spec: LayerSpec) -> T | None:
        """Return a layer's item and mark it as the most recently used."""
        if spec not in self._items:
            return None
        self._items.move_to_end(spec)
        return self._items[spec][0]

    def keep(self, spec: LayerSpec, item: T, n_bytes: int) -> None:
        """Add an item; drop the least recently used until the limit holds."""
        self._items[spec] = (item, n_bytes)
        self.n_bytes += n_bytes
        while self._limit is not None and self.n_bytes > self._limit and len(self._items) > 1:
            _, (_, freed) = self._items.popitem(last=False)
            self.n_bytes -= freed
