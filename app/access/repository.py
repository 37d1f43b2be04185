"""Keys in the store: made, listed, revoked. Any number of processes at once: each file is created once and stays."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import islice

import structlog

from app.access.records import (
    MAX_BYTES,
    MAX_LABEL,
    MAX_RATE,
    SCOPES,
    KeyEnd,
    KeyRecord,
    StoredKey,
    digest_of,
    new_secret,
)
from npt_core.errors import ConfigError, Fault
from worker.errors import NotFoundError, WorkerError
from worker.ids import check_id, new_id
from worker.jobfiles import read_record
from worker.records import Page, utcnow
from worker.store.base import Store

log = structlog.get_logger(__name__)

FOLDER = "keys"
_KEY, _END = ".json", ".revoked.json"


@dataclass(frozen=True)
class Wanted:
    """What a new key shall be; refuses what cannot be.

    Attributes:
        scopes: What it may do, at least one of `SCOPES`.
        label: What people call it.
        expires_at: When it ends; None: never.
        requests_per_minute: Its own rate; None: the server's default, 0: no limit.
        burst: Requests it may save up; None, 0: what the server allows, at most those of a minute.
        upload_bytes_per_day: Its own quota; None: the server's default, 0: no limit.

    Raises:
        ConfigError: Every fault at once.
    """

    scopes: tuple[str, ...]
    label: str = ""
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    burst: int | None = None
    upload_bytes_per_day: int | None = None

    def __post_init__(self) -> None:
        faults = []
        strange = [scope for scope in self.scopes if scope not in SCOPES]
        if not self.scopes or strange:
            found = f"has {', '.join(map(repr, strange))[:200]}" if strange else "is empty"
            faults.append(Fault("scopes", f"{found}; use one or several of {', '.join(SCOPES)}"))
        if len(self.label) > MAX_LABEL or not self.label.isprintable():
            faults.append(Fault("label", f"must be at most {MAX_LABEL} printable characters"))
        if self.expires_at is not None and (self.expires_at.tzinfo is None or self.expires_at <= utcnow()):
            faults.append(Fault("expires_at", "must be a time to come, with its offset: 2030-01-31T00:00:00Z"))
        for name, most in (("requests_per_minute", MAX_RATE), ("burst", MAX_RATE), ("upload_bytes_per_day", MAX_BYTES)):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= most:
                faults.append(Fault(name, f"is {value}; it must be a whole number from 0 to {most}"))
        if faults:
            detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
            raise ConfigError(f"This key cannot be made: {detail}.", faults)


class KeyRepository:
    """The keys of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def create(self, wanted: Wanted, *, by: str) -> tuple[KeyRecord, str]:
        """Make a key.

        Args:
            wanted: What it shall be.
            by: Id of the key that asked for it, or `command`.

        Returns:
            Its record, and the key itself: the only time that anybody sees it.

        Raises:
            StoreFullError: No room.
        """
        key_id = new_id("key")
        secret = new_secret(key_id)
        record = KeyRecord(
            id=key_id,
            digest=digest_of(secret),
            label=wanted.label.strip(),
            scopes=tuple(scope for scope in SCOPES if scope in wanted.scopes),
            created_at=utcnow(),
            created_by=by,
            expires_at=wanted.expires_at,
            requests_per_minute=wanted.requests_per_minute,
            burst=wanted.burst,
            upload_bytes_per_day=wanted.upload_bytes_per_day,
        )
        self._store.put(f"{FOLDER}/{key_id}{_KEY}", record.to_json(), create_only=True)
        return record, secret

    def names(self) -> frozenset[str]:
        """The files there are. Files never change: the same names are the same keys in the same states."""
        return frozenset(self._store.names(FOLDER))

    def get(self, key_id: str) -> StoredKey:
        """One key.

        Raises:
            NotFoundError: There is none.
            CorruptRecordError: Its file cannot be read.
        """
        check_id(key_id, "key")
        try:
            record = read_record(self._store, f"{FOLDER}/{key_id}{_KEY}", KeyRecord)
        except NotFoundError:
            raise NotFoundError(f"There is no key with the id {key_id!r}.") from None
        try:
            return StoredKey(record=record, end=read_record(self._store, f"{FOLDER}/{key_id}{_END}", KeyEnd))
        except NotFoundError:
            return StoredKey(record=record)

    def all(self, after: str | None = None) -> Iterator[StoredKey]:
        """Every key, newest first (ids sort by age); `after` is the id of the last one seen."""
        for name in sorted(self.names(), reverse=True):
            key_id = name.partition(".")[0]
            if name != f"{key_id}{_KEY}" or (after is not None and key_id >= after):
                continue
            try:
                yield self.get(key_id)
            except WorkerError as error:  # it opens nothing, and must not hide the others
                log.error("key left out of a listing", object=key_id, error=error.message)

    def list(self, *, limit: int = 50, cursor: str | None = None) -> Page[StoredKey]:
        """Newest first; `cursor` is the id of the last key of the page before."""
        if cursor is not None:
            check_id(cursor, "key")
        items = list(islice(self.all(cursor), limit + 1))
        more = len(items) > limit
        return Page(items=items[:limit], next_cursor=items[limit - 1].record.id if more else None)

    def revoke(self, key_id: str, *, by: str) -> bool:
        """End a key for good; False where it had ended so before.

        Raises:
            NotFoundError: There is none.
        """
        if not self._store.exists(f"{FOLDER}/{check_id(key_id, 'key')}{_KEY}"):
            raise NotFoundError(f"There is no key with the id {key_id!r}.")
        end = KeyEnd(revoked_at=utcnow(), revoked_by=by)
        return self._store.put(f"{FOLDER}/{key_id}{_END}", end.to_json(), create_only=True)
