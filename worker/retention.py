"""What goes by itself: unfinished uploads and writes, old idempotency keys, marks of processes that are gone."""

from __future__ import annotations

import structlog

from worker.errors import WorkerError
from worker.jobfiles import read_record
from worker.jobs import IdempotencyClaim
from worker.records import utcnow
from worker.settings import WorkerSettings
from worker.store.base import Store

log = structlog.get_logger(__name__)


class Retention:
    """Sweeps the store."""

    def __init__(self, store: Store, settings: WorkerSettings) -> None:
        self._store = store
        self._settings = settings

    def sweep(self) -> dict[str, int]:
        """Remove what has no more use; how many of each."""
        counts = {"parts": self._store.sweep(self._settings.part_ttl_s), "keys": self._sweep_keys()}
        if any(counts.values()):
            log.info("swept", **counts)
        return counts

    def _sweep_keys(self) -> int:
        removed = 0
        for name in self._store.names("idempotency"):
            key = f"idempotency/{name}"
            try:
                age = (utcnow() - read_record(self._store, key, IdempotencyClaim).created_at).total_seconds()
            except WorkerError:
                continue
            if age > self._settings.idempotency_ttl_s:
                removed += self._store.delete(key)
        return removed
