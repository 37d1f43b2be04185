"""Idempotency keys: who first came with a key decides which job it stands for, in one create-once file a key."""

from __future__ import annotations

import hashlib
from datetime import datetime

from worker.errors import IdempotencyInFlight, IdempotencyMismatch, NotFoundError
from worker.jobfiles import JobFiles, read_record
from worker.records import Record, utcnow
from worker.store.base import Store

FOLDER = "idempotency"
IN_FLIGHT_S = 60.0
"""A key whose job was never written belongs to a request that died, after this long."""


class Claim(Record):
    """What a key stands for: `idempotency/<hash of the key>.json`."""

    fingerprint: str | None = None
    job_id: str
    created_at: datetime

    @property
    def age_s(self) -> float:
        return (utcnow() - self.created_at).total_seconds()


class Claims:
    """Every key that is remembered.

    Args:
        store: Where they lie.
        files: Of the jobs they stand for.
        ttl_s: How long a key is remembered.
    """

    def __init__(self, store: Store, files: JobFiles, ttl_s: float) -> None:
        self._store, self._files, self._ttl_s = store, files, ttl_s

    def take(self, key: str, fingerprint: str | None, job_id: str) -> str | None:
        """None where the key is new and now stands for `job_id`; else the job it stands for.

        Raises:
            IdempotencyMismatch: the key came with another fingerprint before.
            IdempotencyInFlight: the first request with this key has not written its job yet.
        """
        where = _place(key)
        claim = Claim(fingerprint=fingerprint, job_id=job_id, created_at=utcnow())
        if self._store.put(where, claim.to_json(), create_only=True):
            return None
        try:
            found = read_record(self._store, where, Claim)
        except NotFoundError:  # swept away just now
            return self._take_again(where, claim)
        if found.age_s > self._ttl_s:
            self.drop_over(where, found)
            return self._take_again(where, claim)
        _check(found, fingerprint)
        if not self._files.exists(found.job_id) and found.age_s < IN_FLIGHT_S:
            raise IdempotencyInFlight(
                "The first request with this Idempotency-Key is still being worked on; try again soon."
            )
        return found.job_id

    def find(self, key: str, fingerprint: str | None) -> str | None:
        """The job that a key stands for, where that is written down; changes nothing.

        Raises:
            IdempotencyMismatch: the key came with another fingerprint before.
        """
        try:
            found = read_record(self._store, _place(key), Claim)
        except NotFoundError:
            return None
        if found.age_s > self._ttl_s:
            return None
        _check(found, fingerprint)
        return found.job_id if self._files.exists(found.job_id) else None

    def _take_again(self, where: str, claim: Claim) -> str | None:
        if self._store.put(where, claim.to_json(), create_only=True):
            return None
        raise IdempotencyInFlight("Another request with this Idempotency-Key came at the same moment; try again soon.")

    def drop_over(self, where: str, found: Claim) -> bool:
        """Forget a key that was found to be over, unless somebody else has done so and it stands for a new request."""
        with self._store.lock(FOLDER):
            try:
                return read_record(self._store, where, Claim) == found and self._store.delete(where)
            except NotFoundError:
                return False

    def drop(self, key: str) -> None:
        """Forget a key: its request was refused and had no effect."""
        self._store.delete(_place(key))


def _check(found: Claim, fingerprint: str | None) -> None:
    if found.fingerprint != fingerprint:
        raise IdempotencyMismatch(
            "This Idempotency-Key came with another request before; use a new key, or repeat that request exactly."
        )


def _place(key: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(key.encode()).hexdigest()}.json"
