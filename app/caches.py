"""A cache of things that are slow to load and known by their size."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class LoadingCache(Generic[K, V]):
    """Loads each key once, however many ask; keeps the least recently used out of `limit` bytes.

    Belongs to one event loop. The newest entry always stays, even where it alone is over the limit.

    Args:
        limit: Bytes of all entries.
        size_of: Bytes of one entry.
        on_drop: Called with each entry that leaves.
    """

    def __init__(
        self, limit: int, size_of: Callable[[V], int], on_drop: Callable[[K, V], None] = lambda key, value: None
    ) -> None:
        self._limit, self._size_of, self._on_drop = limit, size_of, on_drop
        self._entries: OrderedDict[K, tuple[V, int]] = OrderedDict()
        self._loading: dict[K, asyncio.Task[V]] = {}
        self.nbytes = 0
        self.hits = self.misses = 0

    def __len__(self) -> int:
        return len(self._entries)

    def peek(self, key: K) -> V | None:
        """The entry if it is loaded; leaves the order alone."""
        entry = self._entries.get(key)
        return entry[0] if entry else None

    def values(self) -> list[V]:
        """Every entry, least recently used first."""
        return [value for value, _ in list(self._entries.values())]  # at once: other threads ask too

    async def get(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        """The entry of `key`, loaded now if need be. A failure to load is not kept."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
            self.hits += 1
            return entry[0]
        self.misses += 1  # also where another caller's load is waited for
        task = self._loading.get(key)
        if task is None:
            task = asyncio.ensure_future(self._load(key, load))
            self._loading[key] = task
        return await asyncio.shield(task)  # one caller that gives up must not take the others' load with it

    async def _load(self, key: K, load: Callable[[], Awaitable[V]]) -> V:
        try:
            value = await load()
        finally:
            self._loading.pop(key, None)
        self._put(key, value)
        return value

    def weigh(self, key: K, value: V) -> None:
        """Count an entry again that was used and has grown by it; nothing where it has left."""
        entry = self._entries.get(key)
        if entry is not None and entry[0] is value:
            self.nbytes -= entry[1]
            self._put(key, value)

    def _put(self, key: K, value: V) -> None:
        size = self._size_of(value)
        self._entries[key] = (value, size)
        self._entries.move_to_end(key)
        self.nbytes += size
        while self.nbytes > self._limit and len(self._entries) > 1:
            self.drop(next(iter(self._entries)))

    def drop(self, key: K) -> None:
        """Forget an entry."""
        entry = self._entries.pop(key, None)
        if entry is not None:
            self.nbytes -= entry[1]
            self._on_drop(key, entry[0])

    def drop_where(self, test: Callable[[K], bool]) -> None:
        """Forget every entry whose key passes `test`."""
        for key in [key for key in self._entries if test(key)]:
            self.drop(key)
