"""How many bytes of the data folder each kind of thing takes: counted beside everything else, never in a request.

One process of a data folder has them measured, once a minute; the others read what it found.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from worker.measuring import KIND_OF, measure
from worker.rounds import Rounds

if TYPE_CHECKING:
    from worker.store.base import Store

log = structlog.get_logger(__name__)

COUNTED = frozenset({"datasets", "models", "jobs", "feedback", "uploads"})
"""Kinds that the limit of the store is about; caches have limits of their own."""


def counted(key: str) -> bool:
    """Whether what lies there counts against the limit of the store."""
    return KIND_OF.get(key.partition("/")[0]) in COUNTED


def measure_counted(root: Path) -> int:
    """Bytes that count against the limit."""
    return _counted_of(measure(root)) if root.is_dir() else 0


class Usage:
    """Measures again and again; whoever asks gets what was found last.

    Args:
        store: Its limit is set right with what was found.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._found = store.root / "run" / "usage.json"
        self.bytes: Mapping[str, int] | None = None
        self._rounds = Rounds("usage", self._round, store.measure_every_s)
        self.start, self.stop = self._rounds.start, self._rounds.stop

    def refresh(self) -> None:
        """Measure now."""
        try:
            self._store.limit.recounted(self._measure)
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            log.warning("the data folder cannot be measured", error=str(error))

    def _round(self) -> None:
        """Measure where no process of this data folder has lately, or does."""
        try:
            with self._store.try_lock("usage") as alone:
                if alone and not self._is_fresh():
                    self.refresh()
                    return
            self.bytes = json.loads(self._found.read_bytes())
        except FileNotFoundError:
            return  # the first one is being made
        except (OSError, ValueError) as error:
            log.warning("the size of the data folder cannot be read", error=str(error))

    def _is_fresh(self) -> bool:
        try:
            return 0 <= time.time() - self._found.stat().st_mtime < self._store.measure_every_s / 2
        except FileNotFoundError:
            return False

    def _measure(self) -> int:
        found = dict(self._store.measure())
        self.bytes = found
        self._found.parent.mkdir(parents=True, exist_ok=True)
        draft = self._found.with_suffix(f".{os.getpid()}")
        draft.write_text(json.dumps(found))
        draft.replace(self._found)
        return _counted_of(found)


def _counted_of(found: Mapping[str, int]) -> int:
    return sum(size for kind, size in found.items() if kind in COUNTED)
