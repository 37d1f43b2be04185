"""Feedback: pictures a model was not sure about, kept for a person to label; off until somebody switches it on.

    feedback/<model id>/settings.json      how unsure is unsure, how many, how long
    feedback/<model id>/items.sqlite3      the pictures, with what was answered and what they are

One SQLite file a model: a picture is kept whole or not at all, the same one once, and what is over a bound goes in the
same transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import structlog
from pydantic import Field

from npt_core.data.names import label_fault, nfc
from npt_core.errors import Fault, OverloadedError
from worker.errors import ConflictError, CorruptRecordError, FeedbackError, NotFoundError, StoreFullError
from worker.ids import ID_PATTERN, check_id, new_id
from worker.jobfiles import read_record
from worker.models import ModelRepository
from worker.records import Page, Record, utcnow
from worker.settings import WorkerSettings
from worker.store.base import Store

log = structlog.get_logger(__name__)

FOLDER, SETTINGS, ITEMS = "feedback", "settings.json", "items.sqlite3"
WRITING = "feedback"
"""The store's lock around writes: nothing is kept of a model whose feedback goes. Taken after that of the models."""
KIND = "item"
MAX_ITEMS = 10_000
MAX_DAYS = 365
BUSY_S = 10.0

_SCHEMA = """
CREATE TABLE IF NOT EXISTS item (
    id TEXT PRIMARY KEY, sha256 TEXT NOT NULL UNIQUE, at TEXT NOT NULL, filename TEXT NOT NULL, answer TEXT NOT NULL,
    label TEXT, labelled_at TEXT, size INTEGER NOT NULL, picture BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS item_label ON item (label, id);
"""
_COLUMNS = "id, sha256, at, filename, answer, label, labelled_at, size"


class FeedbackSettings(Record):
    """What of a model's answers is kept."""

    enabled: bool = False
    below: float = Field(default=0.6, ge=0, le=1)  # a best probability under this
    max_items: int = Field(default=500, ge=1, le=MAX_ITEMS)
    max_days: int = Field(default=30, ge=1, le=MAX_DAYS)


class FeedbackState(Record):
    """The settings of a model, and what is there."""

    settings: FeedbackSettings
    items: int = 0
    labelled: int = 0
    nbytes: int = 0


class Answer(Record):
    """One class of an answer."""

    label: str
    probability: float


class FeedbackItem(Record):
    """A picture that was kept."""

    id: str
    sha256: str
    created_at: datetime
    filename: str
    answer: tuple[Answer, ...]  # best first
    label: str | None = None  # what a person says it is
    labelled_at: datetime | None = None
    size: int


class Unsure(Record):
    """A picture to be kept, and what was answered: (label, probability), best first."""

    filename: str
    picture: bytes
    answer: tuple[tuple[str, float], ...]


class FeedbackRepository:
    """What was kept, for every model."""

    def __init__(self, store: Store, models: ModelRepository, settings: WorkerSettings) -> None:
        self._store, self._models, self._settings = store, models, settings

    # -- the switch

    def settings(self, model_id: str) -> FeedbackSettings:
        """How a model's switch stands; off where nobody touched it."""
        try:
            return read_record(self._store, f"{FOLDER}/{model_id}/{SETTINGS}", FeedbackSettings)
        except NotFoundError:
            return FeedbackSettings()

    def switch(self, model_id: str, settings: FeedbackSettings) -> FeedbackState:
        """Set the switch of a model; what is over new bounds goes at once, what is there otherwise stays.

        Raises:
            NotFoundError: no such model.
        """
        with self._store.lock(WRITING):  # a model that is deleted at this moment must not leave a folder
            self._models.get(model_id)
            self._store.put(f"{FOLDER}/{model_id}/{SETTINGS}", settings.to_json())
        if self._there(model_id):
            with self._open(model_id, write=True) as connection:
                self._bound(connection, settings)
        return self.state(model_id)

    def state(self, model_id: str) -> FeedbackState:
        """The switch, and how much is there.

        Raises:
            NotFoundError: no such model.
        """
        self._models.get(model_id)
        settings = self.settings(model_id)
        if not self._there(model_id):
            return FeedbackState(settings=settings)
        with self._open(model_id) as connection:
            items, labelled, size = connection.execute(
                "SELECT count(*), count(label), coalesce(sum(size), 0) FROM item"
            ).fetchone()
        return FeedbackState(settings=settings, items=items, labelled=labelled, nbytes=size)

    def clear(self, model_id: str) -> bool:
        """Switch off and forget everything; False where there was nothing.

        Raises:
            NotFoundError: no such model.
        """
        with self._store.lock(WRITING):
            self._models.get(model_id)
            return self._store.delete(f"{FOLDER}/{model_id}")

    # -- keeping

    def keep(self, model_id: str, unsure: Sequence[Unsure]) -> int:
        """Keep pictures where the switch is on; how many were new. The oldest go where there is no more room."""
        if not unsure or not self.settings(model_id).enabled:
            return 0
        now = utcnow().isoformat()
        rows = []
        for one in unsure:
            answer = json.dumps([{"label": label, "probability": p} for label, p in one.answer])
            sha256 = hashlib.sha256(one.picture).hexdigest()
            rows.append((new_id(KIND), sha256, now, one.filename, answer, len(one.picture), one.picture))
        self._store.ensure_free(sum(row[5] for row in rows))
        with self._store.lock(WRITING):
            self._models.get(model_id)
            settings = self.settings(model_id)
            if not settings.enabled:  # switched off, or everything forgotten, while this waited
                return 0
            with self._open(model_id, write=True) as connection:
                before = connection.total_changes
                connection.executemany(
                    "INSERT OR IGNORE INTO item (id, sha256, at, filename, answer, size, picture) "
                    "VALUES (?, ?, ?, ?, ?, ?, ?)",
                    rows,
                )
                kept = connection.total_changes - before
                self._bound(connection, settings)
        return kept

    def _bound(self, connection: sqlite3.Connection, settings: FeedbackSettings) -> int:
        """Remove what is too old, then the oldest beyond the bounds, those nobody labelled first; how many."""
        before = connection.total_changes
        oldest = (utcnow() - timedelta(days=settings.max_days)).isoformat()
        connection.execute("DELETE FROM item WHERE at < ?", (oldest,))
        order = "ORDER BY label IS NOT NULL DESC, id DESC"  # the first to stay first
        connection.execute(
            f"DELETE FROM item WHERE id NOT IN (SELECT id FROM item {order} LIMIT ?)",  # noqa: S608 - fixed words
            (settings.max_items,),
        )
        connection.execute(
            "DELETE FROM item WHERE id IN (SELECT id FROM (SELECT id, sum(size) OVER "  # noqa: S608 - fixed words
            f"({order} ROWS UNBOUNDED PRECEDING) AS total FROM item) WHERE total > ?)",
            (self._settings.feedback_bytes,),
        )
        return connection.total_changes - before

    def overdue(self) -> Iterator[tuple[str, int, int]]:
        """What is older than its model's bound: the model, how many pictures, their bytes."""
        for model_id in self._store.names(FOLDER):
            if not ID_PATTERN.fullmatch(model_id) or not self._there(model_id):
                continue
            items = size = 0
            with contextlib.suppress(
                CorruptRecordError, OverloadedError
            ):  # it is logged, and the others' are looked at
                oldest = (utcnow() - timedelta(days=self.settings(model_id).max_days)).isoformat()
                with self._open(model_id) as connection:
                    items, size = connection.execute(
                        "SELECT count(*), coalesce(sum(size), 0) FROM item WHERE at < ?", (oldest,)
                    ).fetchone()
            if items:
                yield model_id, items, size

    def trim(self, model_id: str) -> bool:
        """Remove what is over a model's bounds; whether there was anything."""
        with self._open(model_id, write=True) as connection:
            return self._bound(connection, self.settings(model_id)) > 0

    # -- reading and labelling

    def list(
        self, model_id: str, *, labelled: bool | None = None, limit: int = 50, cursor: str | None = None
    ) -> Page[FeedbackItem]:
        """Newest first. `cursor` is the id of the last item of the page before.

        Raises:
            NotFoundError: no such model.
        """
        self._models.get(model_id)
        if cursor is not None:
            check_id(cursor, KIND)
        if not self._there(model_id):
            return Page(items=[])
        wanted = {None: "", True: "AND label IS NOT NULL ", False: "AND label IS NULL "}[labelled]
        with self._open(model_id) as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM item WHERE id < ? {wanted}ORDER BY id DESC LIMIT ?",  # noqa: S608 - fixed words
                (cursor or "~", limit + 1),
            ).fetchall()
        items = [_item(row) for row in rows[:limit]]
        return Page(items=items, next_cursor=items[-1].id if len(rows) > limit else None)

    def get(self, model_id: str, item_id: str) -> tuple[FeedbackItem, bytes]:
        """An item and its picture.

        Raises:
            NotFoundError: no such model or item.
        """
        self._models.get(model_id)
        check_id(item_id, KIND)
        row = None
        if self._there(model_id):
            with self._open(model_id) as connection:
                row = connection.execute(
                    f"SELECT {_COLUMNS}, picture FROM item WHERE id = ?",  # noqa: S608 - fixed words
                    (item_id,),
                ).fetchone()
        if row is None:
            raise NotFoundError(f"The model {model_id} has no feedback item {item_id!r}; it may have grown too old.")
        return _item(row[:-1]), row[-1]

    def label(self, model_id: str, labels: Mapping[str, str | None]) -> int:
        """Say what items show: item id -> label, or None to take it back; all or none. How many there were.

        Raises:
            FeedbackError: an item that is not there, a label that cannot be one; every fault is listed.
            NotFoundError: no such model.
        """
        self._models.get(model_id)
        cleaned = {item: nfc(label) if label is not None else None for item, label in labels.items()}
        faults = [
            Fault(item, f"the label {fault}")
            for item, label in cleaned.items()
            if label is not None and (fault := label_fault(label))
        ]
        now = utcnow().isoformat()
        if not self._there(model_id):
            faults += [Fault(item, "is no item of this model; it may have grown too old") for item in cleaned]
        else:
            with self._open(model_id, write=True) as connection:
                for item, label in cleaned.items():
                    found = connection.execute(
                        "UPDATE item SET label = ?, labelled_at = ? WHERE id = ?", (label, label and now, item)
                    )
                    if not found.rowcount:
                        faults.append(Fault(item, "is no item of this model; it may have grown too old"))
                if faults:
                    connection.rollback()
        if faults:
            raise FeedbackError(f"{len(faults)} of {len(labels)} labels cannot be kept; none was.", faults)
        return len(labels)

    def delete(self, model_id: str, item_id: str) -> None:
        """Remove one item.

        Raises:
            NotFoundError: no such model or item.
        """
        self.get(model_id, item_id)
        with self._open(model_id, write=True) as connection:
            connection.execute("DELETE FROM item WHERE id = ?", (item_id,))

    def labelled(self, model_id: str) -> Iterator[tuple[FeedbackItem, bytes]]:
        """Every labelled item with its picture, oldest first, one after the other.

        Raises:
            ConflictError: nothing is labelled.
        """
        if not self._there(model_id):
            raise ConflictError(f"Nothing is labelled yet for {model_id}; say what its items show first.")
        with self._open(model_id) as connection:
            ids = [row[0] for row in connection.execute("SELECT id FROM item WHERE label IS NOT NULL ORDER BY id")]
        if not ids:
            raise ConflictError(f"Nothing is labelled yet for {model_id}; say what its items show first.")
        for item_id in ids:
            with contextlib.suppress(NotFoundError):  # it grew too old just now
                item, picture = self.get(model_id, item_id)
                if item.label is not None:
                    yield item, picture

    # -- the file

    def _there(self, model_id: str) -> bool:
        return self._store.exists(f"{FOLDER}/{check_id(model_id, 'model')}/{ITEMS}")

    @contextlib.contextmanager
    def _open(self, model_id: str, *, write: bool = False) -> Iterator[sqlite3.Connection]:
        """A connection for one transaction, which is written when the block ends well; to write only if said so."""
        key = f"{FOLDER}/{check_id(model_id, 'model')}/{ITEMS}"
        try:
            with (
                self._store.edit(key, write=write) as path,
                contextlib.closing(sqlite3.connect(path, timeout=BUSY_S)) as connection,
            ):
                connection.execute("PRAGMA secure_delete = ON")  # what was forgotten is gone from the file too
                connection.execute("PRAGMA auto_vacuum = FULL")  # of a new file: what goes makes room on the disk
                connection.executescript(_SCHEMA)
                with connection:
                    yield connection
        except sqlite3.DatabaseError as error:
            code = getattr(error, "sqlite_errorcode", 0) & 0xFF
            if code == sqlite3.SQLITE_FULL:
                raise StoreFullError("The data volume is full; make room, or clear feedback.") from error
            if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):  # sound, and in use: not to be cleared
                raise OverloadedError(f"The feedback of {model_id} is being written to; try again.", 5.0) from error
            log.error("feedback cannot be read", model=model_id, error=str(error))
            raise CorruptRecordError(
                f"The feedback of {model_id} cannot be read; clear it, or have the operator restore {ITEMS}."
            ) from error


def _item(row: Sequence[Any]) -> FeedbackItem:
    item_id, sha256, at, filename, answer, label, labelled_at, size = row
    return FeedbackItem(
        id=item_id,
        sha256=sha256,
        created_at=datetime.fromisoformat(at),
        filename=filename,
        answer=tuple(Answer.model_validate(one) for one in json.loads(answer)),
        label=label,
        labelled_at=datetime.fromisoformat(labelled_at) if labelled_at else None,
        size=size,
    )
