"""What was read from a bucket as files, kept on this machine as long as there is room. Nothing in it is needed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from worker.measuring import file_sizes

log = structlog.get_logger(__name__)

DRAFT = ".draft-"
OF = 32
"""Characters of an entry's name that tell of which key it is."""
GRACE_S = 600.0
"""What was used so lately stays, whatever the room: somebody has its path and may not have opened it yet."""
DRAFT_KEPT_S = 24 * 3600.0
KEPT_S = 24 * 3600.0
"""What was not used for so long goes, whatever the room: another machine may have deleted it."""


class ReadCache:
    """Files and folders by names that change with their content. Any number of processes may share one.

    Args:
        folder: Where they lie.
        max_bytes: The most they may take; what is in use may take more for a while.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self.folder, self._max_bytes = folder, max_bytes
        self._lock = threading.Lock()
        self._making: dict[str, threading.Lock] = {}

    def get(self, name: str, make: Callable[[Path], None]) -> Path:
        """The entry of a name, made by `make(path)` where it is not there, by one thread of a process at a time."""
        entry = self.folder / name
        if _use(entry):
            return entry
        with self._lock:
            lock = self._making.setdefault(name, threading.Lock())
        try:
            with lock:
                if not _use(entry):
                    self._make(entry, make)
        finally:  # also where it could not be made
            with self._lock:
                self._making.pop(name, None)
        return entry

    def _make(self, entry: Path, make: Callable[[Path], None]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        draft = self.folder / f"{DRAFT}{secrets.token_hex(8)}"
        try:
            make(draft)
            try:
                os.rename(draft, entry)
            except OSError:
                if not entry.exists():  # else another process was quicker, with the same
                    raise
        finally:
            remove(draft)
        self.trim()

    def keep(self, name: str, path: Path) -> None:
        """Make a file an entry; it must not be changed any more."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path.chmod(0o400)
        path.replace(self.folder / name)
        self.trim()

    def forget(self, keys: Iterable[str]) -> None:
        """Remove what was kept of these keys, in whatever version."""
        gone = {_of(key) for key in keys}
        with contextlib.suppress(FileNotFoundError):
            for path in list(self.folder.iterdir()):
                if path.name[:OF] in gone:
                    remove(path)

    def trim(self) -> int:
        """Remove what is old, and the least used entries until the rest fits; how many."""
        if not self.folder.is_dir():
            return 0
        entries, total = [], 0
        now = time.time()
        for path in self.folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                used, size = path.stat().st_mtime, size_of(path)
                if path.name.startswith(DRAFT):
                    if now - used > DRAFT_KEPT_S:
                        remove(path)
                    continue
                entries.append((used, size, path))
                total += size
        removed = 0
        for used, size, path in sorted(entries):
            if now - used < KEPT_S and (total <= self._max_bytes or now - used < GRACE_S):
                break
            remove(path)
            total, removed = total - size, removed + 1
        if removed:
            log.info("cache of the bucket trimmed", entries=removed, bytes=total)
        return removed


def entry_name(key: str, content: str) -> str:
    """The name of an entry.

    Args:
        key: Of the object or folder.
        content: Hex, which changes with what it holds.
    """
    return f"{_of(key)}-{content}-{key.rpartition('/')[2]}"


def _of(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:OF]


def _use(entry: Path) -> bool:
    try:
        os.utime(entry)
    except FileNotFoundError:
        return False
    return True


def remove(path: Path) -> None:
    """Remove a file or folder, if it is there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def size_of(path: Path) -> int:
    """Bytes of a file, or of everything in a folder."""
    return sum(file_sizes(path)) if path.is_dir() else path.stat().st_size
