"""What the service asks of its store. A folder now; an object store can answer the same questions."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, Protocol

from npt_core.errors import ConfigError
from worker.store.limit import Limit

KEY_PATTERN = re.compile(r"^[a-z0-9][a-z0-9_-]*(/[a-zA-Z0-9_-][a-zA-Z0-9._-]*)*$")


def check_key(key: str) -> str:
    """The key itself if it can be one.

    Keys are made of ids and fixed words, never of user text; a dot never begins a part, so that none climbs.

    Raises:
        ConfigError: it is no key: a bug of ours, not of the user.
    """
    if len(key) > 300 or not KEY_PATTERN.fullmatch(key):
        raise ConfigError(f"Not a store key: {key[:100]!r}.")
    return key


class Store(Protocol):
    """Objects under keys. A write is whole or not at all; a create-only write has one winner."""

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        """Write durably; False where `create_only` and the key exists."""

    def put_file(self, key: str, source: Path, *, create_only: bool = False) -> bool:
        """Like `put`, and `source` is gone afterwards."""

    def get(self, key: str) -> bytes:
        """The object. Raises NotFoundError."""

    def open(self, key: str) -> BinaryIO:
        """The object for reading. Raises NotFoundError."""

    def path(self, key: str) -> Path:
        """A local file or folder of that key."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object or folder."""

    def names(self, prefix: str) -> list[str]:
        """Names directly under the prefix, sorted."""

    def delete(self, prefix: str) -> bool:
        """Remove an object or everything under a prefix; False where there was nothing."""

    def unlink(self, key: str) -> None:
        """Remove a small object that does no harm where a power cut brings it back; nothing where there is none."""

    def prune(self, prefix: str) -> bool:
        """Remove a folder where nothing is in it, however much there may be: whether it was so."""

    def move(self, prefix: str, target: str) -> bool:
        """Move everything under a prefix; False where there is no source or the target exists."""

    def sync(self, prefix: str) -> None:
        """Make durable what was written by path under a prefix."""

    def flush(self, source: Path) -> None:
        """Do ahead what is slow about `put_file`, where a lock is held around that."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Exclude other threads and processes on this store."""

    def part(self) -> Path:
        """A fresh path for an upload in the making; `put_file` from there costs nothing."""

    limit: Limit
    """How much the store may hold."""

    def claim(self, path: Path) -> None:
        """Count what was written by path. Raises StoreFullError where the store may not hold it."""

    def discard(self, path: Path) -> bool:
        """Remove a part; False where it is not there."""

    def ensure_free(self, nbytes: int) -> None:
        """Raise StoreFullError where so many bytes do not fit."""

    def touch(self, key: str) -> bool:
        """Note that an object was used now; False where there is none."""

    def touched(self, key: str) -> datetime:
        """When an object was written or touched last. Raises NotFoundError."""

    def size(self, key: str) -> int:
        """Bytes of an object, or of everything under a prefix; 0 where there is nothing."""

    def sweep(self, older_than_s: float) -> int:
        """Remove what unfinished writes and uploads left; how many."""

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every object under a prefix: key, size."""
