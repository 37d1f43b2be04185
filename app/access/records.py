"""An API key as it is stored: its hash, never the key.

    keys/<id>.json           who may do what (KeyRecord), written once and never changed
    keys/<id>.revoked.json   no longer (KeyEnd), created once

A key is `npt_<26 characters of its id>_<43 characters of chance>`. The id is public: it finds the record in one look,
so that one hash is compared and not all of them. The rest is 256 random bits, which nobody guesses from a plain
SHA-256; slow hashes are for passwords that people choose.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from datetime import datetime
from enum import StrEnum

from worker.records import Record

TUNE, PREDICT, ADMIN = "tune", "predict", "admin"
SCOPES = (TUNE, PREDICT, ADMIN)
ALL_SCOPES = frozenset(SCOPES)
MAX_LABEL = 100
MAX_RATE, MAX_BYTES = 1_000_000, 2**60
_SECRET = re.compile(r"npt_([0-9a-hjkmnp-tv-z]{26})_[A-Za-z0-9_-]{43}")


class KeyState(StrEnum):
    """What a key is good for."""

    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


class KeyRecord(Record):
    """A key as it was made. A limit of None is the server's default, 0 is none at all."""

    id: str
    digest: str
    label: str = ""
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str
    expires_at: datetime | None = None
    requests_per_minute: int | None = None
    burst: int | None = None
    upload_bytes_per_day: int | None = None

    def matches(self, key: str) -> bool:
        """Whether `key` is this one; takes as long whatever it is."""
        return hmac.compare_digest(self.digest, digest_of(key))


class KeyEnd(Record):
    """When a key was revoked, and by whom."""

    revoked_at: datetime
    revoked_by: str


class StoredKey(Record):
    """Everything the store knows of one key."""

    record: KeyRecord
    end: KeyEnd | None = None

    def state(self, now: datetime) -> KeyState:
        if self.end is not None:
            return KeyState.REVOKED
        expires = self.record.expires_at
        return KeyState.EXPIRED if expires is not None and expires <= now else KeyState.ACTIVE


def effective(scopes: tuple[str, ...]) -> frozenset[str]:
    """What these scopes allow: an admin could make itself any key, so `admin` allows everything at once."""
    return ALL_SCOPES if ADMIN in scopes else frozenset(scopes)


def new_secret(key_id: str) -> str:
    """A fresh key of that id; shown once, kept nowhere."""
    return f"npt_{key_id.removeprefix('key_')}_{secrets.token_urlsafe(32)}"


def id_in(key: str) -> str | None:
    """The id that a key of ours carries; None where it is none of ours."""
    match = _SECRET.fullmatch(key)
    return f"key_{match[1]}" if match else None


def digest_of(key: str) -> str:
    """The SHA-256 of a key, in hex."""
    return hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).hexdigest()
