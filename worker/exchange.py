"""Models on their way out of this store and into it, as the zips of `npt_core.bundle`."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from worker.errors import ConflictError, NotFoundError
from worker.ids import new_id
from worker.models import ModelRepository
from worker.records import ModelDraft, ModelRecord, Origin
from worker.settings import WorkerSettings
from worker.store.base import Store

if TYPE_CHECKING:
    from npt_core.bundle import Bundle

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Arrival:
    """A model that was sent: its files in a folder of the store where nobody looks, and what they say."""

    key: str
    folder: Path
    bundle: Bundle

    @property
    def backbone(self) -> str:
        """What its backbone was called where it was made."""
        return str(self.bundle.manifest["backbone"]["name"])

    @property
    def fingerprint(self) -> str:
        """Of its backbone."""
        return str(self.bundle.manifest["backbone"]["fingerprint"])


class ModelExchange:
    """Exports and imports."""

    def __init__(self, store: Store, models: ModelRepository, settings: WorkerSettings) -> None:
        self._store = store
        self._models = models
        self._settings = settings

    def pack(self, model_id: str) -> tuple[ModelRecord, Generator[bytes, None, None]]:
        """A model as the bytes of one file; its files are open when this returns.

        Raises:
            NotFoundError: no such model.
            CorruptRecordError: a file of it is missing or not what was written.
        """
        from npt_core.bundle import Origin as Source
        from npt_core.bundle import pack

        record = self._models.get(model_id)
        self._models.refuse_damage(model_id, self._models.verify(model_id))
        source = Source(record.id, record.name, record.version, record.created_at.isoformat())
        try:
            return record, pack(self._models.folder(model_id), source)
        except FileNotFoundError:  # deleted just now
            raise NotFoundError(f"There is no model with the id {model_id!r}.") from None

    @contextlib.contextmanager
    def unpacked(self, part: Path) -> Iterator[Arrival]:
        """Unpack an uploaded file and judge it; what was not kept when the block ends is gone. `part` stays.

        Raises:
            BundleError: no exported model, or one that cannot be used.
            ArchiveError: a hostile or unreadable zip.
            StoreFullError: no room.
        """
        from npt_core.bundle import unpack

        self._store.ensure_free(part.stat().st_size)
        key = f"uploads/{secrets.token_hex(16)}-import"
        folder = self._store.workspace(key)
        try:
            bundle = unpack(part, folder, max_tensor_bytes=self._settings.max_entry_bytes)
            self._store.claim(folder)
        except BaseException:
            self._store.abandon(key)  # not `delete`: what was never counted must stay off the count
            raise
        try:
            yield Arrival(key, folder, bundle)
        finally:
            self._store.delete(key)

    def known(self, arrival: Arrival, name: str | None) -> ModelRecord | None:
        """The model of the same content, if it is there already.

        Raises:
            ConflictError: it is there under another name than the one asked for.
        """
        found = self._models.by_content(arrival.bundle.content)
        return None if found is None else _same_name(found, name)

    def keep(
        self, arrival: Arrival, *, backbone: str, name: str | None = None, owner: str | None = None
    ) -> tuple[ModelRecord, bool]:
        """Make a model of what has arrived, in one step.

        Args:
            arrival: Loaded once already, with success.
            backbone: What its backbone is called on this server.
            name: What it shall be called; None: as where it was made.
            owner: Who sent it.

        Returns:
            The model, and False where a model of the same content is there already: then that one.

        Raises:
            ConflictError: it is there under another name than the one asked for.
            StoreFullError: no room.
        """
        manifest, origin = arrival.bundle.manifest, arrival.bundle.origin
        draft = ModelDraft(
            name=name or origin.name,
            dataset_id=manifest.get("dataset_id"),
            parent=manifest.get("parent"),
            backbone=backbone,
            backbone_fingerprint=arrival.fingerprint,
            method=manifest["method"],
            regularizer=_text(manifest.get("config", {}).get("regularizer")) or "none",
            labels=tuple(one["label"] for one in manifest["classes"]),
            metrics=manifest.get("metrics", {}),
        )
        source = Origin(
            id=origin.id,
            name=origin.name,
            version=origin.version,
            created_at=datetime.fromisoformat(origin.created_at) if origin.created_at else None,
        )
        record = self._models.prepare(
            arrival.folder, draft, model_id=new_id("model"), job_id=None, owner=owner, imported=source
        )
        self._store.sync(arrival.key)
        kept, created = self._models.promote_unless_known(arrival.key, record)
        if created:
            log.info("model imported", model=kept.id, origin=origin.id)
        return _same_name(kept, name), created


def _same_name(record: ModelRecord, name: str | None) -> ModelRecord:
    if name is not None and name != record.name:
        called = f"as {record.name!r}" if record.name else "without a name"
        raise ConflictError(
            f"This very model is here already {called}: {record.id}. Models never change their name; point an alias "
            f"to it, or delete it and import it as {name!r}."
        )
    return record


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and len(value) <= 100 else None
