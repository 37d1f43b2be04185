"""Data sets by content: zips, the core's manifest, and a small record that is written last and makes it visible."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worker.archives import LOCK, Archives
from worker.audits import KIND, Audits
from worker.errors import ConflictError, CorruptRecordError, JobFinishedError, NotFoundError, WorkerError
from worker.ids import DATASET_ID_PATTERN, check_dataset_id
from worker.jobfiles import read_record
from worker.jobs import JobStore
from worker.models import LOCK as MODELS
from worker.models import ModelRepository
from worker.records import AuditRecord, DatasetRecord, Page, ProblemItem, utcnow
from worker.references import References, needs_of_dataset
from worker.settings import WorkerSettings
from worker.shelf import DatasetShelf
from worker.store.base import Store

if TYPE_CHECKING:
    from npt_core.data.checks import Limits
    from npt_core.data.dataset import Dataset
    from npt_core.data.edit import Edit, Edited
    from npt_core.data.ingest import Sample
    from npt_core.tuning.control import Control

log = structlog.get_logger(__name__)

RECORD, MANIFEST, CHANGE = "dataset.json", "manifest.json", "change.json"


class DatasetRepository:
    """Stored data sets."""

    def __init__(
        self, store: Store, jobs: JobStore, models: ModelRepository, shelf: DatasetShelf, settings: WorkerSettings
    ) -> None:
        self._store = store
        self._jobs = jobs
        self._models = models
        self._shelf = shelf
        self._settings = settings
        self._archives = Archives(store)
        self._references = References(store)
        self.audits = Audits(store, jobs)

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
            self._store.discard(part)

    def _add(self, part: Path, filename: str | None, control: Control | None) -> tuple[DatasetRecord, bool]:
        from npt_core.data.dataset import Dataset

        with Dataset.from_archive(part, limits=self.limits(), control=control) as dataset:
            record = _described(dataset, filename)
            manifest = _as_json(dataset.to_manifest())
        key = self._archives.ready(part)

        def archives() -> tuple[str, ...]:
            self._archives.put(key, part)
            return (key,)

        return self._keep(record, {MANIFEST: manifest}, archives, key)

    def edit(
        self,
        dataset_id: str,
        edit: Edit,
        part: Path | None = None,
        filename: str | None = None,
        *,
        control: Control | None = None,
    ) -> tuple[DatasetRecord, bool]:
        """Make a new data set from a stored one, which stays; `part`, pictures to add, is gone afterwards.

        Returns:
            The record, and False where the same pictures were there already under their id.

        Raises:
            NotFoundError: no such data set.
            EditError: the edit cannot be made; every fault is listed.
            ArchiveError, DatasetError: as `add` raises them.
            ConflictError: the data set was replaced while it was edited.
            StoreFullError: no room.
        """
        from npt_core.data.edit import Additions, edit_dataset

        try:
            parent_record = self._stored(dataset_id)
            with self._open(parent_record) as parent:
                additions = Additions.from_archive(part, limits=self.limits(), control=control) if part else None
                try:
                    made = edit_dataset(parent, edit, additions, limits=self.limits())
                finally:
                    if additions is not None:
                        additions.close()
            return self._keep_edited(parent_record, made, part, filename)
        finally:
            if part is not None:
                self._store.discard(part)

    def _keep_edited(
        self, parent: DatasetRecord, made: Edited, part: Path | None, filename: str | None
    ) -> tuple[DatasetRecord, bool]:
        record = _described(made.dataset, filename)
        record = record.model_copy(update={"parent": parent.id, "change": made.change.counts})
        files = {MANIFEST: _as_json(made.dataset.to_manifest()), CHANGE: _as_json(made.change.to_dict())}
        added = self._archives.ready(part) if part is not None and len(parent.archives) in made.archives else None

        def archives() -> tuple[str, ...]:
            known = self._stored(parent.id).archives
            if known != parent.archives:
                raise ConflictError("The data set was deleted and sent again meanwhile; try again.")
            keys = [known[number] for number in made.archives if number < len(known)]
            if part is not None and added is not None:
                self._archives.put(added, part)
                keys.append(added)
            return tuple(keys)

        return self._keep(record, files, archives, added)

    def _keep(
        self,
        record: DatasetRecord,
        files: dict[str, bytes],
        archives: Callable[[], tuple[str, ...]],
        ahead: str | None,
    ) -> tuple[DatasetRecord, bool]:
        """Store a data set, its record last, unless its pictures are known; False then.

        `ahead` is the zip of these that may have been sent before, and is dropped where nothing comes to need it.
        """
        folder = f"datasets/{record.id}"
        with self._store.lock(LOCK):
            if self._store.exists(f"{folder}/{RECORD}"):
                # The pictures are known; what this archive had besides them is not.
                self._store.touch(f"{folder}/{RECORD}")
                self._archives.drop_unused(filter(None, [ahead]))
                known = self.get(record.id)
                faults = (*record.faults, *self._other_words(folder, files[MANIFEST]))
                return known.model_copy(update={"faults": faults, "skipped": record.skipped}), False
            keys: tuple[str, ...] = (ahead,) if ahead is not None else ()
            try:
                keys = archives()
                size = sum(map(self._store.size, keys))
                record = record.model_copy(update={"archives": keys, "size": size, "files": _digests(files)})
                self._references.note(record.id, needs_of_dataset(record))
                for name, data in files.items():
                    self._store.put(f"{folder}/{name}", data)
                self._store.put(f"{folder}/{RECORD}", record.to_json())
                self._shelf.put(record)
            except BaseException:
                self._store.delete(folder)  # a folder without a record is seen by nobody and would stay for ever
                self._archives.drop_unused(keys)
                raise
        log.info(
            "data set stored",
            dataset=record.id,
            parent=record.parent,
            images=record.images,
            classes=len(record.labels),
            bytes=record.size,
        )
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
        return self._audited(self._stored(dataset_id))

    def exists(self, dataset_id: str) -> bool:
        """Whether there is such a data set."""
        return self._store.exists(f"datasets/{check_dataset_id(dataset_id)}/{RECORD}")

    def _stored(self, dataset_id: str) -> DatasetRecord:
        check_dataset_id(dataset_id)
        try:
            return read_record(self._store, f"datasets/{dataset_id}/{RECORD}", DatasetRecord)
        except NotFoundError:
            raise NotFoundError(f"There is no data set with the id {dataset_id!r}.") from None

    def _audited(self, record: DatasetRecord) -> DatasetRecord:
        return record.model_copy(update={"audit": self.audits.read(record.id, record.audit.findings)})

    def images(
        self, dataset_id: str, *, label: str | None = None, split: str | None = None, start: int = 0, limit: int = 100
    ) -> Page[Sample]:
        """The images of a data set in its own order, `start` of those asked for left out.

        Raises:
            NotFoundError: no such data set.
        """
        with self.open(dataset_id) as dataset:
            found = [
                sample
                for sample in dataset.samples
                if (label is None or sample.label == label) and (split is None or sample.split == split)
            ]
        rest = found[start : start + limit]
        return Page(items=rest, next_cursor=str(start + limit) if start + limit < len(found) else None)

    def change(self, dataset_id: str) -> dict[str, Any]:
        """What the edit that made a data set did, picture by picture.

        Raises:
            NotFoundError: no such data set, or one that was uploaded whole.
        """
        record = self._stored(dataset_id)
        if record.parent is None:
            raise NotFoundError(f"The data set {dataset_id} was uploaded whole; no edit made it.")
        try:
            change: dict[str, Any] = json.loads(self._beside(record, CHANGE))
        except ValueError as error:
            raise CorruptRecordError(
                f"The change that made the data set {dataset_id} cannot be read: {error}."
            ) from error
        return {"parent": record.parent, **change}

    def _beside(self, record: DatasetRecord, name: str) -> bytes:
        """A file beside the record. Raises ValueError where it is not what was written."""
        data = self._store.get(f"datasets/{record.id}/{name}")
        if record.files.get(name) not in (None, hashlib.sha256(data).hexdigest()):
            raise ValueError("its SHA-256 differs")
        return data

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[DatasetRecord]:
        """Newest first. `cursor` is the id of the last data set of the page before."""
        records: list[DatasetRecord] = []
        after = cursor
        while len(records) <= limit:
            ids = self._shelf.newest(after, limit + 1)
            if ids is None:
                records = [*self._by_age(cursor)]
                break
            records += self._readable(ids)
            if len(ids) <= limit:
                break
            after = ids[-1]
        page = [self._audited(record) for record in records[:limit]]
        return Page(items=page, next_cursor=page[-1].id if len(records) > limit else None)

    def _by_age(self, cursor: str | None) -> Sequence[DatasetRecord]:
        """All of them that are older than the cursor, from the store alone."""
        names = (name for name in self._store.names("datasets") if DATASET_ID_PATTERN.fullmatch(name))
        records = sorted(self._readable(names), key=lambda record: (record.created_at, record.id), reverse=True)
        if cursor is None:
            return records
        last = self._stored(cursor)
        return [record for record in records if (record.created_at, record.id) < (last.created_at, last.id)]

    def _readable(self, ids: Iterable[str]) -> Sequence[DatasetRecord]:
        records = []
        for dataset_id in ids:
            try:
                records.append(self._stored(dataset_id))
            except NotFoundError:
                continue
            except WorkerError as error:
                log.error("data set left out of a listing", dataset=dataset_id, error=error.message)
        return records

    def open(self, dataset_id: str) -> Dataset:
        """The data set itself, to read pictures from; close it afterwards.

        Raises:
            NotFoundError: no such data set.
            CorruptRecordError: its manifest cannot be read.
        """
        return self._open(self._stored(dataset_id))

    def _open(self, record: DatasetRecord) -> Dataset:
        from npt_core.data.dataset import Dataset
        from npt_core.errors import DatasetError

        try:
            manifest = json.loads(self._beside(record, MANIFEST))
            return Dataset.from_manifest(manifest, *map(self._store.fetch, record.archives))
        except (ValueError, DatasetError) as error:
            raise CorruptRecordError(
                f"The manifest of the data set {record.id} cannot be read; delete the data set and send it again."
            ) from error

    def last_use(self, record: DatasetRecord) -> datetime:
        """When it was last sent, or a job last started on it."""
        return max(record.created_at, self._store.touched(f"datasets/{record.id}/{RECORD}"))

    def expire(self, dataset_id: str, before: datetime) -> bool:
        """Remove a data set that nothing needs and nobody used since; False where that is not so. Its zips stay.

        Raises:
            NotFoundError: no such data set.
        """
        with self._store.lock(LOCK):
            record = self._stored(dataset_id)
            if self.last_use(record) >= before or self._jobs.uses(dataset_id):
                return False
            with self._store.lock(MODELS):
                if self._models.uses(dataset_id):
                    return False
                self._remove(dataset_id)
            self._shelf.drop(dataset_id)
        log.info("data set expired", dataset=dataset_id)
        return True

    def delete(self, dataset_id: str) -> None:
        """Remove a data set, and the zips that no other data set reads from. An audit of it is cancelled.

        Data sets that were made from it stay as they are: they hold on to the zips they need.

        Raises:
            NotFoundError: no such data set.
            ConflictError: an unfinished job or a model needs it.
        """
        with self._store.lock(LOCK):
            record = self.get(dataset_id)
            job = self._jobs.uses(dataset_id, besides=KIND)
            if job is not None:
                raise ConflictError(f"The data set is needed by the job {job}; cancel it or wait for its end.")
            with self._store.lock(MODELS):
                model = self._models.uses(dataset_id)
                if model is not None:
                    raise ConflictError(f"The data set is needed by the model {model}; delete that first.")
                self._remove(dataset_id)
            self._shelf.drop(dataset_id)
            self._archives.drop_unused(record.archives)
        log.info("data set deleted", dataset=dataset_id)
        if record.audit.status.under_way and record.audit.job_id is not None:
            try:
                self._jobs.cancel(record.audit.job_id)
            except (JobFinishedError, NotFoundError):
                return  # it was quicker

    def _remove(self, dataset_id: str) -> None:
        self._store.delete(f"datasets/{dataset_id}")
        self._references.gone(dataset_id)


def _digests(files: Mapping[str, bytes]) -> dict[str, str]:
    return {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}


def _described(dataset: Dataset, filename: str | None) -> DatasetRecord:
    from npt_core.data.audit import audit_structure

    findings = tuple(finding.to_dict() for finding in audit_structure(dataset))
    return DatasetRecord(
        id=dataset.id,
        created_at=utcnow(),
        filename=filename[:255] if filename else None,
        size=0,
        images=len(dataset),
        labels=dataset.labels,
        counts={split: dict(counts) for split, counts in dataset.counts.items()},
        skipped=dict(dataset.skipped),
        faults=tuple(ProblemItem(path=fault.path, message=fault.message) for fault in dataset.faults),
        audit=AuditRecord(findings=findings),
    )


def _as_json(data: dict[str, Any]) -> bytes:
    return json.dumps(data, separators=(",", ":")).encode()
