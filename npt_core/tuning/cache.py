"""Feature caches: what the frozen image tower once computed is never computed again."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
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


def _group_of(key: str) -> str:
    group, dot, _ = key.partition(".")
    return group if dot else ""


@dataclass(frozen=True)
class Group:
    """Entries of a cache whose keys `grouped` made for the same group.

    Attributes:
        name: The first characters of the group's name; empty for keys of no group.
        size: Array bytes.
        used: When one of them was last used, in seconds since 1970; known to the hour.
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


_SCHEMA = """
CREATE TABLE IF NOT EXISTS feature (
    key TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL, size INTEGER NOT NULL,
    used INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feature_used ON feature (used);
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), size INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS feature_in AFTER INSERT ON feature BEGIN UPDATE total SET size = size + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS feature_out AFTER DELETE ON feature BEGIN UPDATE total SET size = size - OLD.size; END;
"""

_BATCH = 500
"""Keys in one statement; SQLite's oldest limit on variables is 999."""

_TOUCH_S = 3600
"""Use is noted once an hour and key: reading must not cost a write."""


class FolderFeatureCache:
    """A cache in one SQLite file of a folder: many processes may use it, the least recently used goes first.

    A file that cannot be read is put aside and started anew: a cache holds nothing that cannot be computed again.

    Args:
        path: The folder; made where it is missing.
        max_bytes: Room for array bytes; the file is somewhat larger.
    """

    def __init__(self, path: Path | str, max_bytes: int = 4 << 30) -> None:
        self.folder = Path(path)
        self.file = self.folder / "features.sqlite3"
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with self._open():
                pass
        except sqlite3.DatabaseError:
            self._start_anew()

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        # A connection for each call: calls are few and large, and none outlives a fork or crosses a thread.
        connection = sqlite3.connect(self.file, timeout=30, isolation_level=None)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(_SCHEMA)
            connection.create_function("group_of", 1, _group_of, deterministic=True)
            yield connection
        finally:
            connection.close()

    def _start_anew(self) -> None:
        for name in ("", "-wal", "-shm"):
            Path(f"{self.file}{name}").unlink(missing_ok=True)
        with self._open():
            pass

    @property
    def nbytes(self) -> int:
        """Array bytes kept."""
        with self._lock, self._open() as connection:
            return int(connection.execute("SELECT size FROM total").fetchone()[0])

    def groups(self) -> list[Group]:
        """Return every group; an unreadable or locked file has none."""
        try:
            with self._lock, self._open() as connection:
                rows = connection.execute(
                    "SELECT group_of(key), SUM(size), MAX(used) FROM feature GROUP BY 1"
                ).fetchall()
        except sqlite3.DatabaseError:
            return []
        return [Group(*row) for row in rows]

    def drop_group(self, name: str, unused_since: float) -> bool:
        """Forget a group, unless one of its entries was used since then; False in that case, or where it is locked."""
        try:
            with self._lock, self._open() as connection:
                connection.execute("BEGIN IMMEDIATE")
                of_it = "SELECT MAX(used) FROM feature WHERE group_of(key) = ?"
                (used,) = connection.execute(of_it, (name,)).fetchone()
                droppable = used is not None and used < unused_since
                if droppable:
                    connection.execute("DELETE FROM feature WHERE group_of(key) = ?", (name,))
                connection.execute("COMMIT")
        except sqlite3.DatabaseError:
            return False
        return droppable

    def get_many(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return those of `keys` that are known. An unreadable file counts as knowing nothing."""
        found: dict[str, Array] = {}
        stale: list[tuple[int, str]] = []
        now = int(time.time())
        try:
            with self._lock, self._open() as connection:
                for start in range(0, len(keys), _BATCH):
                    part = list(keys[start : start + _BATCH])
                    marks = ",".join("?" * len(part))
                    rows = connection.execute(
                        f"SELECT key, dtype, shape, data, used FROM feature WHERE key IN ({marks})",  # noqa: S608 - marks
                        part,
                    )
                    for key, dtype, shape, data, used in rows:
                        found[key] = np.frombuffer(data, dtype=dtype).reshape([int(n) for n in shape.split(",") if n])
                        if now - used > _TOUCH_S:
                            stale.append((now, key))
                if stale:
                    connection.execute("BEGIN IMMEDIATE")
                    connection.executemany("UPDATE feature SET used = ? WHERE key = ?", stale)
                    connection.execute("COMMIT")
        except sqlite3.OperationalError:
            return found  # locked for too long, or a full disk: a miss, not a failure
        except (sqlite3.DatabaseError, ValueError, TypeError):
            self._start_anew()
            return {}
        return found

    def put_many(self, items: Mapping[str, Array]) -> None:
        """Keep `items`, and drop what was used longest ago beyond `max_bytes`. A full disk is no failure."""
        now = int(time.time())
        rows = [
            (key, array.dtype.str, ",".join(map(str, array.shape)), np.ascontiguousarray(array).tobytes(), array.nbytes)
            for key, array in items.items()
        ]
        try:
            with self._lock, self._open() as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.executemany("DELETE FROM feature WHERE key = ?", [(row[0],) for row in rows])
                connection.executemany("INSERT INTO feature VALUES (?, ?, ?, ?, ?, ?)", [(*row, now) for row in rows])
                self._evict(connection)
                connection.execute("COMMIT")
        except sqlite3.OperationalError:
            return
        except sqlite3.DatabaseError:
            self._start_anew()

    def _evict(self, connection: sqlite3.Connection) -> None:
        while True:
            (size,) = connection.execute("SELECT size FROM total").fetchone()
            if size <= self.max_bytes:
                return
            oldest = connection.execute(
                "SELECT key, size FROM feature ORDER BY used, key LIMIT ?", (_BATCH,)
            ).fetchall()
            if not oldest:
                return
            drop, excess = [], size - self.max_bytes
            for key, one in oldest:
                if excess <= 0:
                    break
                drop.append((key,))
                excess -= one
            connection.executemany("DELETE FROM feature WHERE key = ?", drop)
