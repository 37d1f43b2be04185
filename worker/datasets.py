"""Data sets by content: one blob, the core's manifest, and a small record that is written last and makes it visible."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from worker.errors import ConflictError, CorruptRecordError, NotFoundError, WorkerError
from worker.ids import DATASET_ID_PATTERN, check_dataset_id
from worker.jobfiles import read_record
from worker.jobs import JobStore
from worker.models import ModelRepository
from worker.records import DatasetRecord, Page, ProblemItem, utcnow
from worker.settings import WorkerSettings
from worker.store.base import Store

if TYPE_CHECKING:
    from npt_core.data.checks import Limits
    from npt_core.data.dataset import Dataset
    from npt_core.tuning.control import Control

log = structlog.get_logger(__name__)

RECORD, MANIFEST, BLOB = "dataset.json", "manifest.json", "data.zip"


class DatasetRepository:
    """Stored data sets."""

    def __init__(self, store: Store, jobs: JobStore, models: ModelRepository, settings: WorkerSettings) -> None:
        self._store = store
        self._jobs = jobs
        self._models = models
        self._settings = settings

    def limits(self) -> Limits:
        """What an archive may be on this server."""
        from npt_core.data.checks import Limits

        s = self._settings
        return Limits(
            archive_bytes=s.max_archive_bytes,
            entries=s.max_entries,
            entry_bytes=s.max_entry_bytes,
            total_bytes=s.max_total_bytes,
            ratio=s.max_ratio,
        )

    def add(
        self, part: Path, filename: str | None = None, *, control: Control | None = None
    ) -> tuple[DatasetRecord, bool]:
        """Judge an uploaded archive and keep it; `part` is gone afterwards, whatever happens.

        Returns:
            The record, and False where the same pictures were there already; what was left out is this archive's.

        Raises:
            ArchiveError: hostile or unreadable; every fault is listed.
            DatasetError: nothing can be learned from it; every fault is listed.
            StoreFullError: no room.
        """
        try:
            return self._add(part, filename, control)
        finally:
            part.unlink(missing_ok=True)

    def _add(self, part: Path, filename: str | None, control: Control | None) -> tuple[DatasetRecord, bool]:
        from npt_core.data.audit import audit_structure
        from npt_core.data.dataset import Dataset

        size = part.stat().st_size
        with Dataset.from_archive(part, limits=self.limits(), control=control) as dataset:
            record = DatasetRecord(
                id=dataset.id,
                created_at=utcnow(),
                filename=filename[:255] if filename else None,
                size=size,
                images=len(dataset),
                labels=dataset.labels,
                counts={split: dict(counts) for split, counts in dataset.counts.items()},
                skipped=dict(dataset.skipped),
                faults=tuple(ProblemItem(path=fault.path, message=fault.message) for fault in dataset.faults),
                audit={
                    "status": "structure",
                    "findings": [finding.to_dict() for finding in audit_structure(dataset)],
                },
            )
            manifest = json.dumps(dataset.to_manifest(), separators=(",", ":")).encode()
        folder = f"datasets/{record.id}"
        with self._store.lock("datasets"):
            if self._store.exists(f"{folder}/{RECORD}"):
                # The pictures are known; what this archive had besides them is not.
                known = self.get(record.id)
                faults = (*record.faults, *self._other_words(folder, manifest))
                return known.model_copy(update={"faults": faults, "skipped": record.skipped}), False
            try:
                self._store.put_file(f"{folder}/{BLOB}", part)
                self._store.put(f"{folder}/{MANIFEST}", manifest)
                self._store.put(f"{folder}/{RECORD}", record.to_json())
            except BaseException:
                self._store.delete(folder)  # an archive without a record is seen by nobody and would stay for ever
                raise
        log.info("data set stored", dataset=record.id, images=record.images, classes=len(record.labels), bytes=size)
        return record, True

    def _other_words(self, folder: str, manifest: bytes) -> tuple[ProblemItem, ...]:
        """A fault where an archive of known pictures calls their classes something else."""
        try:
            stored = json.loads(self._store.get(f"{folder}/{MANIFEST}"))
        except (ValueError, WorkerError):
            return ()
        if not isinstance(stored, dict) or "classes" not in stored:
            return ()  # damaged: whoever opens it says so
        if stored["classes"] == json.loads(manifest)["classes"]:
            return ()
        message = (
            "these pictures are stored already, with other names or phrasings for their classes, and the stored ones "
            "are used: give names with `class_names`, or delete the data set first"
        )
        return (ProblemItem(path="classes.json", message=message),)

    def get(self, dataset_id: str) -> DatasetRecord:
        """Raises NotFoundError."""
        check_dataset_id(dataset_id)
        try:
            return read_record(self._store, f"datasets/{dataset_id}/{RECORD}", DatasetRecord)
        except NotFoundError:
            raise NotFoundError(f"There is no data set with the id {dataset_id!r}.") from None

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetRecord]:
        """Newest first. `cursor` is the id of the last data set of the page before."""
        records = []
        for name in self._store.names("datasets"):
            try:
                if DATASET_ID_PATTERN.fullmatch(name):
                    records.append(self.get(name))
            except NotFoundError:
                continue
            except WorkerError as error:
                log.error("data set left out of a listing", dataset=name, error=error.message)
        records.sort(key=lambda record: (record.created_at, record.id), reverse=True)
        if cursor is not None:
            last = self.get(cursor)
            records = [record for record in records if (record.created_at, record.id) < (last.created_at, last.id)]
        return Page(items=records[:limit], next_cursor=records[limit - 1].id if len(records) > limit else None)

    def open(self, dataset_id: str) -> Dataset:
        """The data set itself, to read pictures from; close it afterwards.

        Raises:
            NotFoundError: no such data set.
            CorruptRecordError: its manifest cannot be read.
        """
        from npt_core.data.dataset import Dataset
        from npt_core.errors import DatasetError

        self.get(dataset_id)
        folder = f"datasets/{dataset_id}"
        try:
            manifest = json.loads(self._store.get(f"{folder}/{MANIFEST}"))
            return Dataset.from_manifest(manifest, self._store.path(f"{folder}/{BLOB}"))
        except (ValueError, DatasetError) as error:
            raise CorruptRecordError(
                f"The manifest of the data set {dataset_id} cannot be read; delete the data set and send it again."
            ) from error

    def delete(self, dataset_id: str) -> None:
        """Remove a data set.

        Raises:
            NotFoundError: no such data set.
            ConflictError: an unfinished job or a model needs it.
        """
        with self._store.lock("datasets"):
            self.get(dataset_id)
            job = self._jobs.uses(dataset_id)
            if job is not None:
                raise ConflictError(f"The data set is needed by the job {job}; cancel it or wait for its end.")
            model = self._models.uses(dataset_id)
            if model is not None:
                raise ConflictError(f"The data set is needed by the model {model}; delete that first.")
            self._store.delete(f"datasets/{dataset_id}")
        log.info("data set deleted", dataset=dataset_id)
