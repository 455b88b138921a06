"""A cache bounded in bytes, of which the least recently used items are dropped."""

from collections import OrderedDict
from collections.abc import Hashable
from typing import Generic, TypeVar

__all__ = ["LruCache"]

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class LruCache(Generic[K, T]):
    """Items by key, of `limit` bytes at most or without limit; the newest always stays."""

    def __init__(self, limit: int | None) -> None:
        self._limit = limit
        self._items: OrderedDict[K, tuple[T, int]] = OrderedDict()
        self.n_bytes = 0

    def get(self, key: K) -> T | None:
        """Return an item and mark it as the most recently used; None if it is not there."""
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key][0]

    def keep(self, key: K, item: T, n_bytes: int) -> None:
        """Add an item; drop the least recently used until the limit holds."""
        self._items[key] = (item, n_bytes)
        self.n_bytes += n_bytes
        while self._limit is not None and self.n_bytes > self._limit and len(self._items) > 1:
            _, (_, freed) = self._items.popitem(last=False)
            self.n_bytes -= freed
