"""Who needs what: an empty file `needed/<what>/<who>`, so that a deletion asks one folder, not every record there is.

    a job       needs its data set, and the models its config names, until it has ended
    a model     needs the data set it was made of
    a data set  needs the zips it reads from (by their file name)

A reference is written before what needs the thing becomes visible, under the lock that a deletion of the thing takes,
and removed after. So there may be one too many, never one too few: whoever finds one reads the record of its owner.
The records stay the truth. Where the folder is missing (the store is from before there was one, or somebody removed
it) it is made again from them, once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import structlog

from worker.errors import NotFoundError, WorkerError
from worker.ids import DATASET_ID_PATTERN, ID_PATTERN, ids_in
from worker.jobfiles import JobFiles, read_record
from worker.records import DatasetRecord, JobSpec, ModelRecord
from worker.store.base import Store

log = structlog.get_logger(__name__)

FOLDER = "needed"
LOCK = "needed"
"""Taken inside any other lock."""
COMPLETE = f"{FOLDER}/complete"


class References:
    """Reads and writes them. Knows no Redis, and does not judge: see `JobReader.uses`, `ModelRepository.uses`."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._files = JobFiles(store)

    def note(self, who: str, whats: Iterable[str]) -> None:
        """`who` is about to need these. Call it with the lock held that a deletion of them takes."""
        for what in whats:
            key = f"{FOLDER}/{what}/{who}"
            if not self._store.exists(key):
                self._store.put(key, b"")

    def drop(self, who: str, whats: Iterable[str]) -> None:
        """`who` needs these no more. One that comes back after a power cut does no harm."""
        for what in whats:
            self._store.unlink(f"{FOLDER}/{what}/{who}")

    def of(self, what: str) -> list[str]:
        """Everything that may need it, sorted: the oldest of each kind first."""
        self.ensure()
        return self._store.names(f"{FOLDER}/{what}")

    def gone(self, what: str) -> None:
        """It was deleted. Call it with the lock held that whoever would need it takes."""
        self._store.delete(f"{FOLDER}/{what}")

    def prune(self, what: str) -> None:
        """Leave no folder for what nobody needs. Call it with the lock held that whoever would need it takes."""
        self._store.prune(f"{FOLDER}/{what}")

    def ensure(self) -> None:
        """Make them from the records where that was never done."""
        if self._store.exists(COMPLETE):
            return
        with self._store.lock(LOCK):
            if self._store.exists(COMPLETE):
                return
            number = 0
            for who, whats in self._needs():
                self.note(who, whats)
                number += 1
            self._store.put(COMPLETE, b"")
        log.info("references made from the records", records=number)

    def _needs(self) -> Iterator[tuple[str, list[str]]]:
        """Everything that needs something. What is written meanwhile notes itself."""
        for name in self._store.names("datasets"):
            if DATASET_ID_PATTERN.fullmatch(name):
                try:
                    yield (
                        name,
                        needs_of_dataset(read_record(self._store, f"datasets/{name}/dataset.json", DatasetRecord)),
                    )
                except NotFoundError:  # half made, or deleted just now
                    continue
                except WorkerError as error:
                    log.error("all archives kept for a data set that cannot be read", dataset=name, error=error.message)
                    yield name, self._store.names("archives")
        for name in self._store.names("models"):
            if ID_PATTERN.fullmatch(name):
                try:
                    yield name, needs_of_model(read_record(self._store, f"models/{name}/model.json", ModelRecord))
                except WorkerError as error:  # it cannot be used either
                    log.error("model left out of the references", model=name, error=error.message)
        for job_id in self._files.ids():
            try:
                end = self._files.end(job_id)
                if end is None or (end.model_id is not None and not self._store.exists(f"models/{end.model_id}")):
                    yield job_id, needs_of_job(self._files.spec(job_id))  # its model may not be in its place yet
            except NotFoundError:  # a folder whose request died
                continue
            except WorkerError as error:  # it cannot run either
                log.error("job left out of the references", job=job_id, error=error.message)


def needs_of_job(spec: JobSpec) -> list[str]:
    """What a job needs until it has ended."""
    dataset = [spec.dataset_id] if spec.dataset_id is not None and DATASET_ID_PATTERN.fullmatch(spec.dataset_id) else []
    return [*dataset, *dict.fromkeys(ids_in(spec.config, "model"))]


def needs_of_model(record: ModelRecord) -> list[str]:
    """What a model needs; the data set of an imported one may be on another server, or come here one day."""
    return (
        [record.dataset_id] if record.dataset_id is not None and DATASET_ID_PATTERN.fullmatch(record.dataset_id) else []
    )


def needs_of_dataset(record: DatasetRecord) -> list[str]:
    """The zips it reads from, by file name."""
    return [archive_name(key) for key in record.archives]


def archive_name(key: str) -> str:
    """What a zip is called here: no data set has such an id."""
    return key.rpartition("/")[2]
