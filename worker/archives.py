"""The zips that data sets read from: immutable, named by the hash of their bytes, shared where a data set has grown.

A zip goes when the last data set that needs it goes. Whoever stores or deletes holds the lock `LOCK` of the store, from
the zip to the record that needs it. Jobs start under that lock too: what takes long with a large zip is done before,
while it is an upload and no archive that a sweep could find without a data set.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import structlog

from worker.errors import NotFoundError, WorkerError
from worker.jobfiles import read_record
from worker.models import hash_file
from worker.records import DatasetRecord
from worker.references import References, archive_name
from worker.store.base import Store

log = structlog.get_logger(__name__)

LOCK = "datasets"


class Archives:
    """Zips by content."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._references = References(store)

    def ready(self, part: Path) -> str:
        """The key of a zip that is about to be kept, and its bytes are on the disk. It takes long: hold no lock."""
        key = f"archives/{hash_file(part)}.zip"
        self._store.flush(part, key)
        return key

    def put(self, key: str, part: Path) -> None:
        """Keep a zip that is `ready`; `part` is gone where it was new. Call it with the lock held."""
        if not self._store.exists(key):
            self._store.put_file(key, part)

    def drop_unused(self, keys: Iterable[str]) -> int:
        """Delete those that no data set needs; how many. Call it with the lock held."""
        return sum(self._drop(key) for key in sorted(set(keys)) if not self._is_needed(key))

    def _drop(self, key: str) -> bool:
        dropped = self._store.delete(key)
        self._references.gone(archive_name(key))
        return dropped

    def _is_needed(self, key: str) -> bool:
        name = archive_name(key)
        for dataset_id in self._references.of(name):
            try:
                if key in read_record(self._store, f"datasets/{dataset_id}/dataset.json", DatasetRecord).archives:
                    return True
            except NotFoundError:
                self._references.drop(dataset_id, [name])
            except WorkerError as error:  # a record that cannot be read may need it
                log.error("archive kept, a data set cannot be read", dataset=dataset_id, error=error.message)
                return True
        return False

    def sweep(self) -> int:
        """Delete what a process that died left without a data set; how many."""
        with self._store.lock(LOCK):
            return self.drop_unused(f"archives/{name}" for name in self._store.names("archives"))
