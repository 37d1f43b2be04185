"""The zips that data sets read from: immutable, named by the hash of their bytes, shared where a data set has grown.

A zip goes when the last data set that needs it goes. Whoever stores or deletes holds the lock `LOCK` of the store, from
the zip to the record that needs it. Jobs start under that lock too: what takes long with a large zip is done before,
while it is an upload and no archive that a sweep could find without a data set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import structlog

from worker.errors import WorkerError
from worker.ids import DATASET_ID_PATTERN
from worker.jobfiles import read_record
from worker.models import hash_file
from worker.records import DatasetRecord
from worker.store.base import Store

log = structlog.get_logger(__name__)

LOCK = "datasets"


class Archives:
    """Zips by content."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def ready(self, part: Path) -> str:
        """The key of a zip that is about to be kept, and its bytes are on the disk. It takes long: hold no lock."""
        self._store.flush(part)
        return f"archives/{hash_file(part)}.zip"

    def put(self, key: str, part: Path) -> None:
        """Keep a zip that is `ready`; `part` is gone where it was new. Call it with the lock held."""
        if not self._store.exists(key):
            self._store.put_file(key, part)

    def drop_unused(self, keys: Iterable[str]) -> int:
        """Delete those that no data set needs; how many. Call it with the lock held."""
        asked = set(keys)
        if not asked:
            return 0
        try:
            unused = asked - {key for record in self._records() for key in record.archives}
        except WorkerError as error:  # a record that cannot be read may need any of them
            log.error("archives kept, a data set cannot be read", error=error.message)
            return 0
        return sum(self._store.delete(key) for key in sorted(unused))

    def sweep(self) -> int:
        """Delete what a process that died left without a data set; how many."""
        with self._store.lock(LOCK):
            return self.drop_unused(f"archives/{name}" for name in self._store.names("archives"))

    def _records(self) -> Iterator[DatasetRecord]:
        for name in self._store.names("datasets"):
            if DATASET_ID_PATTERN.fullmatch(name) and self._store.exists(f"datasets/{name}/dataset.json"):
                yield read_record(self._store, f"datasets/{name}/dataset.json", DatasetRecord)
