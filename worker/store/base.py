"""What the service asks of its store: a folder (`LocalStore`), or a bucket and a folder to work in (`S3Store`).

Files are needed as files: zips are read here and there, tensors are mapped, a model is made in a folder. So a key has
no path. `fetch` gives a file or folder to read, `workspace` one to write, `edit` one to change, wherever the store
keeps the truth.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
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


class StoreUnavailable(OSError):  # noqa: N818
    """The store does not answer, or refuses us now; what a disk that fails is to a folder."""


class StoreRefused(StoreUnavailable):
    """The store answers, and takes this request never, however often it is sent; waiting does not help."""


class Store(Protocol):
    """Objects under keys. A write is whole or not at all; a create-only write has one winner.

    Attributes:
        root: A folder of this machine: sockets, marks, uploads in the making, caches. Of `LocalStore` also the store.
        limit: How much the store may hold.
        look_every_s: How often anything may be looked for again and again: each look at a bucket is paid for.
        measure_every_s: The same for `measure`.
        moves_in_steps: Whether a move or deletion that was cut off leaves a part of a folder, without its record.
    """

    root: Path
    limit: Limit
    look_every_s: float
    measure_every_s: float
    moves_in_steps: bool

    def put(self, key: str, data: bytes, *, create_only: bool = False) -> bool:
        """Write durably; False where `create_only` and the key exists."""

    def put_file(self, key: str, source: Path, *, create_only: bool = False) -> bool:
        """Like `put`, and `source` is gone afterwards."""

    def get(self, key: str) -> bytes:
        """The object. Raises NotFoundError."""

    def open(self, key: str) -> BinaryIO:
        """The object for reading. Raises NotFoundError."""

    def fetch(self, key: str) -> Path:
        """An object, or everything under a key, to read as a file or folder; not to be written to.

        It is there for minutes, unless it is deleted on this machine. Where there is none this raises
        NotFoundError, or the path leads nowhere.
        """

    def workspace(self, key: str) -> Path:
        """Where to make a folder of this machine that will lie under a key: nobody sees it before `sync`."""

    def abandon(self, key: str) -> None:
        """Remove what was made in a workspace and never claimed."""

    def edit(self, key: str, *, write: bool = True) -> AbstractContextManager[Path]:
        """The file of a key, there or not, to be changed in place, kept when the block ends well.

        Raises:
            ConflictError: it was changed meanwhile by somebody whom its own locks do not reach.
        """

    def digest(self, key: str) -> str:
        """SHA-256 (hex) of the bytes that are there now. Raises NotFoundError."""

    def exists(self, key: str) -> bool:
        """Whether there is such an object or folder; what has a dot in its last part is asked for as an object."""

    def names(self, prefix: str) -> list[str]:
        """Names directly under the prefix, sorted."""

    def delete(self, prefix: str) -> bool:
        """Remove an object or everything under a prefix; False where there was nothing."""

    def unlink(self, key: str) -> None:
        """Remove a small object that does no harm where a power cut brings it back; nothing where there is none."""

    def prune(self, prefix: str) -> bool:
        """Remove a folder where nothing is in it, however much there may be: whether it was so."""

    def move(self, prefix: str, target: str, last: str = "") -> bool:
        """Move everything under a prefix; False where there is no source or the target exists.

        Args:
            prefix: From where. No two sources of one target are moved at once, unless they hold the same.
            target: To where.
            last: The object that comes last: who finds it there finds everything. Without one, a move that was cut
                off goes on when it is done again.
        """

    def sync(self, prefix: str) -> None:
        """Make durable what was made in the workspace of that key."""

    def flush(self, source: Path, key: str) -> None:
        """Do ahead what is slow about `put_file(key, source)`, where a lock is held around that."""

    def lock(self, name: str) -> AbstractContextManager[None]:
        """Exclude other threads and processes on this store."""

    def try_lock(self, name: str) -> AbstractContextManager[bool]:
        """Like `lock`, without waiting: whether it is held now."""

    def part(self) -> Path:
        """A fresh path for an upload in the making; `put_file` from there costs nothing."""

    def claim(self, path: Path) -> None:
        """Count what was written by path. Raises StoreFullError where the store may not hold it."""

    def discard(self, path: Path) -> bool:
        """Remove a part; False where it is not there."""

    def ensure_free(self, nbytes: int) -> None:
        """Raise StoreFullError where so many bytes do not fit."""

    def touch(self, key: str) -> bool:
        """Note that an object was used now; False where there is none."""

    def touched(self, key: str) -> datetime:
        """When an object, or anything in a folder, was written or touched last. Raises NotFoundError."""

    def changed(self, prefix: str) -> float | None:
        """A number that is another one once a name under a prefix has come or gone; None where that is not known.

        Raises:
            NotFoundError: there is nothing.
        """

    def size(self, key: str) -> int:
        """Bytes of an object, or of everything under a prefix; 0 where there is nothing."""

    def sweep(self, older_than_s: float) -> int:
        """Remove what unfinished writes and uploads left; how many."""

    def tidy(self) -> None:
        """Remove copies of this machine that have grown old; each machine does it for itself."""

    def stale(self, older_than_s: float) -> Iterator[tuple[str, int]]:
        """What unfinished writes, removals and uploads left that long ago: its place, for `drop_stale`, and bytes."""

    def drop_stale(self, place: str) -> bool:
        """Remove one of these; False where it is gone."""

    def walk(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Every object under a prefix: key, size."""

    def measure(self) -> Mapping[str, int]:
        """Bytes by kind (`worker.measuring.KIND_OF`). Takes seconds."""

    def writable(self) -> bool:
        """Whether it can be written to. Raises OSError where it cannot be asked."""
