"""The feature cache of a folder: one SQLite file that many processes read, write and thin out at once."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import threading
import time
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from npt_core.tuning.cache import Array, Group, group_of

if sys.platform != "win32":
    import fcntl

_VERSION = 2
_SCHEMA = """
BEGIN IMMEDIATE;
CREATE TABLE IF NOT EXISTS feature (
    key TEXT PRIMARY KEY, dtype TEXT NOT NULL, shape TEXT NOT NULL, data BLOB NOT NULL, size INTEGER NOT NULL,
    used REAL NOT NULL, crc INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS feature_used ON feature (used);
CREATE TABLE IF NOT EXISTS total (id INTEGER PRIMARY KEY CHECK (id = 0), size INTEGER NOT NULL);
INSERT OR IGNORE INTO total VALUES (0, 0);
CREATE TRIGGER IF NOT EXISTS feature_in AFTER INSERT ON feature BEGIN UPDATE total SET size = size + NEW.size; END;
CREATE TRIGGER IF NOT EXISTS feature_out AFTER DELETE ON feature BEGIN UPDATE total SET size = size - OLD.size; END;
PRAGMA user_version = 2;
COMMIT;
"""

_PAGE = 16384
"""Bytes of a page: on pages of 4 KiB a feature of 512 numbers takes a whole page and a part of another."""

_BATCH = 500
"""Keys in one statement; SQLite's oldest limit on variables is 999."""

_TOUCH_S = 60.0
"""Use is noted once a minute and key: reading must not cost a write."""

_WAIT_S = 30.0
_WAL_BYTES = 16 << 20
_OVERHEAD = 1 << 20
"""Bytes of the file beyond `max_bytes` that are not counted: an empty one has some pages, too."""


class FolderFeatureCache:
    """A cache in one SQLite file of a folder: many processes may use it, the least recently used goes first.

    A process that dies in the middle of a write leaves what was there before. A file that cannot be read is put aside
    and started anew, and an array whose checksum does not match is a miss: a cache holds nothing that cannot be
    computed again. A file of another version is started anew as well.

    Args:
        path: The folder; made where it is missing.
        max_bytes: Room for array bytes, and for the pages that hold them; a write in progress takes its own size more.
    """

    def __init__(self, path: Path | str, max_bytes: int = 4 << 30) -> None:
        self.folder = Path(path)
        self.file = self.folder / "features.sqlite3"
        self.max_bytes = max_bytes
        self._lock = threading.Lock()
        self.folder.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(sqlite3.DatabaseError), self._using():
            pass  # made now, so that a folder which cannot be written to is known at once

    @property
    def nbytes(self) -> int:
        """Array bytes kept."""
        with self._using() as connection:
            return _size(connection)

    def groups(self) -> list[Group]:
        """Return every group; an unreadable or locked file has none."""
        try:
            with self._using() as connection:
                rows = connection.execute(
                    "SELECT group_of(key), SUM(size), MAX(used) FROM feature GROUP BY 1"
                ).fetchall()
        except sqlite3.DatabaseError:
            return []
        return [Group(*row) for row in rows]

    def drop_group(self, name: str, unused_since: float) -> bool:
        """Forget a group, unless one of its entries was used since then; False in that case, or where it is locked."""
        try:
            with self._using() as connection, _writing(connection):
                of_it = "SELECT MAX(used) FROM feature WHERE group_of(key) = ?"
                (used,) = connection.execute(of_it, (name,)).fetchone()
                droppable = used is not None and used < unused_since
                if droppable:
                    connection.execute("DELETE FROM feature WHERE group_of(key) = ?", (name,))
        except sqlite3.DatabaseError:
            return False
        return droppable

    def get_many(self, keys: Sequence[str]) -> dict[str, Array]:
        """Return those of `keys` that are known. An unreadable file counts as knowing nothing."""
        found: dict[str, Array] = {}
        stale: list[tuple[float, str]] = []
        now = time.time()
        # Locked for too long, a full disk, a broken file: a miss, not a failure.
        with contextlib.suppress(sqlite3.DatabaseError), self._using() as connection:
            for start in range(0, len(keys), _BATCH):
                part = list(keys[start : start + _BATCH])
                marks = ",".join("?" * len(part))
                rows = connection.execute(
                    f"SELECT key, dtype, shape, data, used, crc FROM feature WHERE key IN ({marks})",  # noqa: S608
                    part,
                )
                for key, dtype, shape, data, used, crc in rows:
                    if _check(key, dtype, shape, data) != crc:
                        continue
                    found[key] = np.frombuffer(data, dtype=dtype).reshape([int(n) for n in shape.split(",") if n])
                    if now - used > _TOUCH_S:
                        stale.append((now, key))
            if stale:
                with _writing(connection):
                    connection.executemany("UPDATE feature SET used = ? WHERE key = ?", stale)
        return found

    def put_many(self, items: Mapping[str, Array]) -> None:
        """Keep `items`, and drop what was used longest ago beyond `max_bytes`. A full disk is no failure."""
        now = time.time()
        rows = []
        for key, array in items.items():
            dtype, shape = array.dtype.str, ",".join(map(str, array.shape))
            data = np.ascontiguousarray(array).tobytes()
            rows.append((key, dtype, shape, data, array.nbytes, now, _check(key, dtype, shape, data)))
        with contextlib.suppress(sqlite3.DatabaseError), self._using() as connection, _writing(connection):
            connection.executemany("DELETE FROM feature WHERE key = ?", [(row[0],) for row in rows])
            connection.executemany("INSERT INTO feature VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._evict(connection)

    def _evict(self, connection: sqlite3.Connection) -> None:
        while True:
            held = _size(connection)
            excess = max(held - self.max_bytes, _pages(connection) - self.max_bytes - _OVERHEAD)
            if excess <= 0:
                return
            oldest = connection.execute(
                "SELECT key, size FROM feature ORDER BY used, key LIMIT ?", (_BATCH,)
            ).fetchall()
            if not oldest:
                return
            drop = []
            for key, one in oldest:
                if excess <= 0:
                    break
                drop.append((key,))
                excess -= one
            connection.executemany("DELETE FROM feature WHERE key = ?", drop)

    @contextlib.contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """A connection for one call: calls are few and large, and none outlives a fork or crosses a thread.

        Raises:
            sqlite3.OperationalError: Locked for too long, a full disk.
            sqlite3.DatabaseError: The file was broken; it has been started anew.
        """
        with self._lock:
            inode = -1
            try:
                with _held(self.folder, shared=True):
                    connection = sqlite3.connect(self.file, timeout=_WAIT_S, isolation_level=None)
                    try:
                        inode = _inode(self.file)
                        _prepare(connection)
                        yield connection
                    finally:
                        connection.close()
            except sqlite3.OperationalError:
                raise  # nothing is wrong with the file
            except sqlite3.DatabaseError:
                self._start_anew(inode)
                raise

    def _start_anew(self, broken: int) -> None:
        """Remove the broken file, alone with the folder, unless another process has done so before.

        Args:
            broken: The number of the file that was seen to be broken.
        """
        with _held(self.folder, shared=False):
            if _inode(self.file) != broken:
                return
            for name in ("", "-wal", "-shm"):
                Path(f"{self.file}{name}").unlink(missing_ok=True)


@contextlib.contextmanager
def _held(folder: Path, *, shared: bool) -> Iterator[None]:
    """The lock of the folder: shared by those who use the file, exclusive for whoever removes it.

    SQLite's own locks say nothing about a file that is removed: who has just opened the old one would go on with the
    write-ahead log of the new one.
    """
    if sys.platform == "win32":  # an open file cannot be removed there
        yield
        return
    descriptor = os.open(folder / "features.lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare(connection: sqlite3.Connection) -> None:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version not in (0, _VERSION):
        raise sqlite3.DatabaseError(f"a cache of version {version}; this release reads {_VERSION}")
    if version == 0:
        if connection.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone():
            raise sqlite3.DatabaseError("a cache from before versions were counted")
        connection.execute(f"PRAGMA page_size = {_PAGE}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
    if version == 0:
        connection.executescript(_SCHEMA)
    connection.create_function("group_of", 1, group_of, deterministic=True)


@contextlib.contextmanager
def _writing(connection: sqlite3.Connection) -> Iterator[None]:
    """One transaction: everything in it or nothing; a connection that is closed before its end keeps nothing."""
    connection.execute("BEGIN IMMEDIATE")
    yield
    connection.execute("COMMIT")


def _size(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT size FROM total").fetchone()[0])


def _pages(connection: sqlite3.Connection) -> int:
    """Bytes of the file's pages that hold something, this transaction's among them."""
    page, count, free = (
        int(connection.execute(f"PRAGMA {name}").fetchone()[0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * (count - free)


def _check(key: str, dtype: str, shape: str, data: bytes) -> int:
    """A checksum of all that makes up an entry: SQLite notices a broken page, not a changed byte in it."""
    return zlib.crc32(data, zlib.crc32(f"{key}|{dtype}|{shape}".encode()))


def _inode(file: Path) -> int:
    try:
        return file.stat().st_ino
    except OSError:
        return -1
