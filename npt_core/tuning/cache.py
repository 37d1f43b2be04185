"""Feature caches: what the frozen image tower once computed is never computed again.

Here: what a cache promises, and one in memory; `folder_cache` has the one that processes share.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

Array = np.ndarray[tuple[int, ...], np.dtype[np.generic]]


class FeatureCache(Protocol):
    """Arrays by key. A cache may forget anything at any time; it must never return anything else than what was put."""

    def get_many(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return those of `keys` that are known."""
        ...

    def put_many(self, items: Mapping[str, Array]) -> None:
        """Keep `items`."""
        ...


GROUP = 16
"""Characters of a group's name."""


def grouped(group: str, key: str) -> str:
    """Return a key that tells which group it belongs to: features of one backbone can be dropped together."""
    return f"{group[:GROUP]}.{key}"


def group_of(key: str) -> str:
    """Return the group that `grouped` wrote into a key; empty where there is none."""
    group, dot, _ = key.partition(".")
    return group if dot else ""


@dataclass(frozen=True)
class Group:
    """Entries of a cache whose keys `grouped` made for the same group.

    Attributes:
        name: The first characters of the group's name; empty for keys of no group.
        size: Array bytes.
        used: When one of them was last used, in seconds since 1970; known to the minute.
    """

    name: str
    size: int
    used: float


class MemoryFeatureCache:
    """A cache that lives as long as the process, least recently used first out.

    Args:
        max_bytes: Room for array bytes.
    """

    def __init__(self, max_bytes: int = 1 << 30) -> None:
        self.max_bytes = max_bytes
        self.nbytes = 0
        self._items: OrderedDict[str, Array] = OrderedDict()
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return those of `keys` that are known."""
        with self._lock:
            found = {key: self._items[key] for key in keys if key in self._items}
            for key in found:
                self._items.move_to_end(key)
        return found

    def put_many(self, items: Mapping[str, Array]) -> None:
        """Keep `items`."""
        with self._lock:
            for key, array in items.items():
                old = self._items.pop(key, None)
                self.nbytes += array.nbytes - (old.nbytes if old is not None else 0)
                self._items[key] = array
            while self.nbytes > self.max_bytes and self._items:
                _, dropped = self._items.popitem(last=False)
                self.nbytes -= dropped.nbytes
