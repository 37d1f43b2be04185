"""Models: a folder each, made by the winning attempt of a job or by an import, visible once it stands in its place.

A model never changes. Its version number is claimed, and its content noted, just before the one rename that shows it.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from worker.errors import CorruptRecordError, NotFoundError, WorkerError
from worker.ids import ID_PATTERN, check_id
from worker.jobfiles import read_record
from worker.records import FileMark, ModelDraft, ModelRecord, Origin, Page, utcnow
from worker.references import References, needs_of_model
from worker.store.base import Store
from worker.store.names import Names
from worker.versions import Versions

log = structlog.get_logger(__name__)

RECORD = "model.json"
REPORT = "report.json"
LOCK = "models"
"""The store's lock for whatever must not happen at the same time as another change of models or aliases."""


class ModelRepository:
    """Stored classifiers. Reads no tensor: the files are the core's business."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._versions = Versions(store)
        self._names = Names(store, "models")
        self._references = References(store)

    # -- making

    def prepare(
        self,
        folder: Path,
        draft: ModelDraft,
        *,
        model_id: str,
        job_id: str | None,
        owner: str | None = None,
        imported: Origin | None = None,
    ) -> ModelRecord:
        """Describe what lies in a folder, with the hash of every file."""
        from npt_core.bundle import content_of

        files = {
            path.name: FileMark(size=path.stat().st_size, sha256=hash_file(path))
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name != RECORD
        }
        record = ModelRecord(
            **draft.model_dump(),
            id=model_id,
            job_id=job_id,
            created_at=utcnow(),
            owner=owner,
            content=content_of({name: mark.sha256 for name, mark in files.items()}),
            imported=imported,
            files=files,
        )
        (folder / RECORD).write_bytes(record.to_json())
        return record

    def promote(self, source: str, model_id: str) -> bool:
        """Move a prepared folder into its place. Anybody may, as often as they like; False where it is done."""
        if not self._store.exists(f"{source}/{RECORD}"):
            return False  # moved already, or the model was deleted since
        with self._store.lock(LOCK):
            return self._promote(source, check_id(model_id, "model"))

    def promote_unless_known(self, source: str, record: ModelRecord) -> tuple[ModelRecord, bool]:
        """Like `promote`, unless a model of the same content is there: then that one, and False."""
        with self._store.lock(LOCK):
            known = self.by_content(record.content or "")
            if known is not None:
                return known, False
            self._promote(source, record.id)
            return self.get(record.id), True

    def _promote(self, source: str, model_id: str) -> bool:
        if not self._store.exists(f"{source}/{RECORD}") or self._store.exists(f"models/{model_id}/{RECORD}"):
            return False
        try:
            record = read_record(self._store, f"{source}/{RECORD}", ModelRecord)
        except CorruptRecordError as error:
            log.error("model stored with a record that cannot be read", model=model_id, error=error.message)
        else:
            version = self._versions.claim(record.name, model_id) if record.name else None
            self._store.put(f"{source}/{RECORD}", record.model_copy(update={"version": version}).to_json())
            if record.content:
                self._store.put(f"contents/{record.content}/{model_id}", b"")
            self._references.note(model_id, needs_of_model(record))
        moved = self._store.move(source, f"models/{model_id}", last=RECORD)
        if moved:
            log.info("model stored", model=model_id)
        return moved

    # -- reading

    def get(self, model_id: str) -> ModelRecord:
        """Raises NotFoundError."""
        try:
            check_id(model_id, "model")
            return read_record(self._store, f"models/{model_id}/{RECORD}", ModelRecord)
        except NotFoundError:
            raise NotFoundError(
                f"There is no model with the id {model_id[:80]!r}; of an alias, GET /aliases tells the id."
            ) from None

    def folder(self, model_id: str) -> Path:
        """The folder of its files, as they lie there. Raises NotFoundError."""
        self.get(model_id)
        return self._store.fetch(f"models/{model_id}")

    def sound_folder(self, model_id: str) -> Path:
        """The same, to be loaded from: what a classifier is made of is what was written. Its report is not looked at.

        Raises:
            NotFoundError: no such model.
            CorruptRecordError: a file of it is missing or not what was written.
        """
        self.refuse_damage(model_id, self.verify(model_id, but=REPORT))
        return self._store.fetch(f"models/{model_id}")

    def refuse_damage(self, model_id: str, damaged: tuple[str, ...]) -> None:
        """Raise CorruptRecordError where there is any; NotFoundError where the model was deleted meanwhile."""
        if damaged:
            self.get(model_id)
            raise CorruptRecordError(
                f"{', '.join(damaged)} of the model {model_id} is missing or not what was written; restore it or "
                "delete the model."
            )

    def manifest(self, model_id: str) -> dict[str, Any]:
        """The core's manifest, as it was saved."""
        return self._json(model_id, "manifest.json")

    def report(self, model_id: str) -> dict[str, Any]:
        """The report, as data that can be written as JSON whoever made it: NaN and infinity read as null."""
        from npt_core.report.facts import finite

        found: dict[str, Any] = finite(self._json(model_id, REPORT))
        return found

    def _json(self, model_id: str, name: str) -> dict[str, Any]:
        self.get(model_id)
        try:
            found = json.loads(self._store.get(f"models/{model_id}/{name}"))
        except NotFoundError:
            raise NotFoundError(f"The model {model_id} has no {name}.") from None
        except ValueError as error:
            raise CorruptRecordError(
                f"{name} of the model {model_id} cannot be read; restore it or delete the model."
            ) from error
        if not isinstance(found, dict):
            raise CorruptRecordError(
                f"{name} of the model {model_id} is not an object; restore it or delete the model."
            )
        return found

    def by_content(self, content: str) -> ModelRecord | None:
        """A model made of exactly these files, if there is one."""
        for model_id in self._store.names(f"contents/{content}") if content else ():
            try:
                return self.get(model_id)
            except NotFoundError:
                continue  # noted, and never moved
        return None

    def list(self, *, name: str | None = None, limit: int = 50, cursor: str | None = None) -> Page[ModelRecord]:
        """Newest first. `name`: its versions alone. `cursor` is the id of the last model of the page before."""
        if cursor is not None:
            check_id(cursor, "model")
        ids = self._names.sorted() if name is None else sorted(self._versions.models(name))
        items = []
        for number in reversed(range(len(ids) if cursor is None else bisect_left(ids, cursor))):
            model_id = ids[number]
            if not ID_PATTERN.fullmatch(model_id):
                continue
            try:
                items.append(self.get(model_id))
            except NotFoundError:
                continue  # deleted, or on its way out
            except WorkerError as error:
                log.error("model left out of a listing", model=model_id, error=error.message)
                continue
            if len(items) > limit:
                break
        more = len(items) > limit
        return Page(items=items[:limit], next_cursor=items[limit - 1].id if more else None)

    def uses(self, dataset_id: str) -> str | None:
        """A model made from the data set, if there is one. Call it with `LOCK` held."""
        for name in self._references.of(dataset_id):
            try:
                if name.startswith("model_") and self.get(name).dataset_id == dataset_id:
                    return name
            except NotFoundError:  # whoever noted it died before it was moved, or it was deleted
                self._references.drop(name, [dataset_id])
            except WorkerError:
                continue
        return None

    def datasets(self) -> set[str]:
        """Every data set that a model was made of.

        Raises:
            CorruptRecordError: a record cannot be read.
        """
        return {record.dataset_id for record in self._all() if record.dataset_id is not None}

    def fingerprints(self) -> set[str]:
        """Of every backbone that a model was made with.

        Raises:
            CorruptRecordError: a record cannot be read.
        """
        return {record.backbone_fingerprint for record in self._all()}

    def _all(self) -> Iterator[ModelRecord]:
        for name in self._store.names("models"):
            if ID_PATTERN.fullmatch(name):
                try:
                    yield self.get(name)
                except NotFoundError:  # deleted just now
                    continue

    def verify(self, model_id: str, *, but: str | None = None) -> tuple[str, ...]:
        """The files of a model that are missing or not what was written; `but` is one that does not matter."""
        record = self.get(model_id)
        folder = self._store.fetch(f"models/{model_id}")
        return tuple(
            name
            for name, mark in record.files.items()
            if name != but and (not (folder / name).is_file() or hash_file(folder / name) != mark.sha256)
        )

    # -- removing

    def delete(self, model_id: str) -> None:
        """Remove a model, whatever needs it: `Catalogue.delete` asks first. Call it with `LOCK` held.

        Raises:
            NotFoundError: no such model.
        """
        record = self.get(model_id)
        self._store.delete(f"models/{model_id}")
        if record.content:
            self._store.delete(f"contents/{record.content}/{model_id}")
        for dataset_id in needs_of_model(record):
            self._references.drop(model_id, [dataset_id])
            self._references.prune(dataset_id)
        log.info("model deleted", model=model_id)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
