"""Models: a folder each, made by the winning attempt of a job, visible once its `model.json` stands in its place."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import structlog

from worker.errors import ConflictError, CorruptRecordError, NotFoundError, WorkerError
from worker.ids import ID_PATTERN, check_id
from worker.jobfiles import read_record
from worker.records import FileMark, ModelDraft, ModelRecord, Page, utcnow
from worker.store.base import Store

log = structlog.get_logger(__name__)

RECORD = "model.json"


class ModelRepository:
    """Stored classifiers. Reads no tensor: the files are the core's business."""

    def __init__(self, store: Store) -> None:
        self._store = store

    # -- making

    def prepare(
        self, folder: Path, draft: ModelDraft, *, model_id: str, job_id: str | None, owner: str | None = None
    ) -> ModelRecord:
        """Describe what lies in an attempt's folder, with the hash of every file."""
        files = {
            path.name: FileMark(size=path.stat().st_size, sha256=hash_file(path))
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name != RECORD
        }
        record = ModelRecord(
            **draft.model_dump(), id=model_id, job_id=job_id, created_at=utcnow(), owner=owner, files=files
        )
        (folder / RECORD).write_bytes(record.to_json())
        return record

    def promote(self, source: str, model_id: str) -> bool:
        """Move an attempt's folder into its place. Anybody may, as often as they like; False where it is done."""
        if not self._store.exists(f"{source}/{RECORD}"):
            return False  # moved already, or the model was deleted since
        moved = self._store.move(source, f"models/{check_id(model_id, 'model')}")
        if moved:
            log.info("model stored", model=model_id)
        return moved

    # -- reading

    def get(self, model_id: str) -> ModelRecord:
        """Raises NotFoundError."""
        check_id(model_id, "model")
        try:
            return read_record(self._store, f"models/{model_id}/{RECORD}", ModelRecord)
        except NotFoundError:
            raise NotFoundError(f"There is no model with the id {model_id!r}.") from None

    def folder(self, model_id: str) -> Path:
        """The folder `Classifier.load` reads. Raises NotFoundError."""
        self.get(model_id)
        return self._store.path(f"models/{model_id}")

    def manifest(self, model_id: str) -> dict[str, Any]:
        """The core's manifest, as it was saved."""
        return self._json(model_id, "manifest.json")

    def report(self, model_id: str) -> dict[str, Any]:
        """The report, as data."""
        return self._json(model_id, "report.json")

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

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[ModelRecord]:
        """Newest first. `cursor` is the id of the last model of the page before."""
        if cursor is not None:
            check_id(cursor, "model")
        items = []
        for name in reversed(self._store.names("models")):
            if not ID_PATTERN.fullmatch(name) or (cursor is not None and name >= cursor):
                continue
            try:
                items.append(self.get(name))
            except NotFoundError:
                continue  # on its way out
            except WorkerError as error:
                log.error("model left out of a listing", model=name, error=error.message)
                continue
            if len(items) > limit:
                break
        more = len(items) > limit
        return Page(items=items[:limit], next_cursor=items[limit - 1].id if more else None)

    def uses(self, dataset_id: str) -> str | None:
        """A model made from the data set, if there is one."""
        for name in self._store.names("models"):
            try:
                if ID_PATTERN.fullmatch(name) and self.get(name).dataset_id == dataset_id:
                    return name
            except WorkerError:
                continue
        return None

    def verify(self, model_id: str) -> tuple[str, ...]:
        """The files of a model that are missing or not what was written."""
        record = self.get(model_id)
        folder = self._store.path(f"models/{model_id}")
        return tuple(
            name
            for name, mark in record.files.items()
            if not (folder / name).is_file() or hash_file(folder / name) != mark.sha256
        )

    # -- removing

    def delete(self, model_id: str, *, aliases: tuple[str, ...] = ()) -> None:
        """Remove a model.

        Raises:
            NotFoundError: no such model.
            ConflictError: one of `aliases` still points to it.
        """
        self.get(model_id)
        if aliases:
            raise ConflictError(f"The model {model_id} is {', '.join(aliases)}; point the alias elsewhere first.")
        self._store.delete(f"models/{model_id}")
        log.info("model deleted", model=model_id)


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
