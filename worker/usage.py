"""How many bytes of the data folder each kind of thing takes: counted beside everything else, never in a request."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import structlog

from worker.rounds import Rounds
from worker.store.limit import Limit

log = structlog.get_logger(__name__)

EVERY_S = 60.0
KIND_OF = {
    "archives": "datasets",
    "datasets": "datasets",
    "models": "models",
    "names": "models",
    "contents": "models",
    "needed": "models",
    "aliases": "models",
    "jobs": "jobs",
    "idempotency": "jobs",
    "feedback": "feedback",
    "uploads": "uploads",
    "features": "features",
    "exports": "exports",
    "weights": "weights",
}
"""Folder -> kind; every other folder is `other`."""
COUNTED = frozenset({"datasets", "models", "jobs", "feedback", "uploads"})
"""Kinds that the limit of the store is about; caches have limits of their own."""


def file_sizes(folder: Path) -> Iterator[int]:
    """The size of every file under a folder; what vanishes meanwhile is left out."""
    waiting = [folder]
    while waiting:
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            waiting.append(Path(entry.path))
                        else:
                            yield entry.stat(follow_symlinks=False).st_size
                    except FileNotFoundError:
                        continue
        except (FileNotFoundError, NotADirectoryError):
            continue


def measure(root: Path) -> dict[str, int]:
    """Bytes by kind. Takes about a second for 100,000 files."""
    found: Counter[str] = Counter(dict.fromkeys((*KIND_OF.values(), "other"), 0))
    for entry in os.scandir(root):
        kind = KIND_OF.get(entry.name, "other")
        found[kind] += (
            sum(file_sizes(Path(entry.path))) if entry.is_dir(follow_symlinks=False) else entry.stat().st_size
        )
    return dict(found)


def counted(key: str) -> bool:
    """Whether what lies there counts against the limit of the store."""
    return KIND_OF.get(key.partition("/")[0]) in COUNTED


def measure_counted(root: Path) -> int:
    """Bytes that count against the limit."""
    return sum(size for kind, size in measure(root).items() if kind in COUNTED) if root.is_dir() else 0


class Usage:
    """Measures again and again; whoever asks gets what was found last.

    Args:
        root: The data folder.
        limit: Set right with what was found.
    """

    def __init__(self, root: Path, limit: Limit) -> None:
        self._root, self._limit = root, limit
        self.bytes: Mapping[str, int] | None = None
        self._rounds = Rounds("usage", self.refresh, EVERY_S)
        self.start, self.stop = self._rounds.start, self._rounds.stop

    def refresh(self) -> None:
        """Measure now."""
        try:
            self._limit.recounted(self._measure)
        except OSError as error:
            log.warning("the data folder cannot be measured", error=str(error))

    def _measure(self) -> int:
        self.bytes = found = measure(self._root)
        return sum(size for kind, size in found.items() if kind in COUNTED)
