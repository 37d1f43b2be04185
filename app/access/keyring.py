"""Who a key belongs to: the keys of the settings, and those of the store, read again as they change."""

from __future__ import annotations

import hashlib
import hmac
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import structlog

from app.access.records import ALL_SCOPES, KeyRecord, KeyState, StoredKey, effective, id_in
from app.access.repository import FOLDER, KeyRepository
from npt_core.errors import ConfigError
from worker.errors import WorkerError
from worker.records import utcnow
from worker.rounds import Rounds

log = structlog.get_logger(__name__)

REFRESH_S = 0.5
MIN_KEY_LENGTH = 16
_DIGEST = re.compile(r"sha256:([0-9a-fA-F]{64})")


@dataclass(frozen=True)
class Caller:
    """Who sends a request, and what it may do and use up; never the key itself.

    Attributes:
        id: Id of its key; for a key of the settings the start of its hash; `local` on an open server.
        scopes: What it may do.
        requests_per_minute: None: the server's default, 0: no limit.
        burst: None: the server's default.
        upload_bytes_per_day: None: the server's default, 0: no limit.
    """

    id: str
    scopes: frozenset[str]
    requests_per_minute: int | None = None
    burst: int | None = None
    upload_bytes_per_day: int | None = None


OPEN_CALLER = Caller("local", ALL_SCOPES, requests_per_minute=0, upload_bytes_per_day=0)
_NOBODY = KeyRecord(id="key_", digest="0" * 64, scopes=(), created_at=datetime.min, created_by="")


class Keyring:
    """Every key this process accepts, held as hashes only.

    Args:
        entries: Keys of the settings: `sha256:<hex>`, or plain text of at least 16 characters.
        repository: Those of the store.
        now: The clock that ends keys.
        closed: Nobody gets in without a key, even before there is one.
        every_s: How often the store is read again.

    Raises:
        ConfigError: An entry of the settings is neither.
    """

    def __init__(
        self,
        entries: Iterable[str],
        repository: KeyRepository,
        now: Callable[[], datetime] = utcnow,
        *,
        closed: bool = False,
        every_s: float = REFRESH_S,
    ) -> None:
        self._digests = [_digest(entry, number) for number, entry in enumerate(entries, 1)]
        self.repository, self._now = repository, now
        self._names: frozenset[str] = frozenset()
        self._stored: Mapping[str, StoredKey] = {}
        self._closed = closed or bool(self._digests)
        self._failing = False
        self._reading = threading.Lock()
        self._rounds = Rounds("keyring", self._round, every_s)
        self.refresh()

    @property
    def is_open(self) -> bool:
        """True while there never was a key, and none is required: once shut the door stays so, whatever is revoked."""
        return not self._closed

    @property
    def has_usable(self) -> bool:
        """Whether anybody has a key that is accepted now."""
        now = self._now()
        return bool(self._digests) or any(key.state(now) is KeyState.ACTIVE for key in self._stored.values())

    def find(self, key: str) -> Caller | None:
        """The caller an accepted key belongs to. What takes part in the comparison takes the same time for any key."""
        digest = hashlib.sha256(key.encode("utf-8", errors="surrogateescape")).digest()
        configured = False
        for known in self._digests:
            configured |= hmac.compare_digest(known, digest)
        stored = self._stored.get(id_in(key) or "")
        record = stored.record if stored is not None else _NOBODY
        if record.matches(key) and stored is not None and stored.state(self._now()) is KeyState.ACTIVE:
            return Caller(
                record.id,
                effective(record.scopes),
                requests_per_minute=record.requests_per_minute,
                burst=record.burst,
                upload_bytes_per_day=record.upload_bytes_per_day,
            )
        return Caller(digest.hex()[:12], ALL_SCOPES) if configured else None

    def refusal(self, key: str) -> str:
        """Why a key is not accepted. Only who holds it learns what became of it."""
        stored = self._stored.get(id_in(key) or "")
        if stored is None or not stored.record.matches(key):
            return "The API key is not known here."
        return f"The API key {stored.record.id} is {stored.state(self._now())}; ask for another one."

    # -- the store

    def refresh(self) -> None:
        """Read what has changed in the store. Files never change: only new names are read."""
        with self._reading:
            names = self.repository.names()
            if names == self._names:
                return
            changed = {name.partition(".")[0] for name in names ^ self._names}
            known = {key_id: key for key_id, key in self._stored.items() if key_id not in changed}
            for key_id in changed & {name.partition(".")[0] for name in names}:
                try:
                    known[key_id] = self.repository.get(key_id)
                except WorkerError as error:  # it opens nothing
                    log.error("key cannot be read", object=key_id, error=error.message)
            self._stored, self._names, self._closed = known, names, True

    def start(self) -> None:
        """Read the store again and again, beside everything else, until `stop`."""
        self._rounds.start()

    def stop(self) -> None:
        """Leave it at what is known."""
        self._rounds.stop()

    def _round(self) -> None:
        try:
            self.refresh()
            self._failing = False
        except OSError as error:  # what was known goes on being so
            if not self._failing:
                log.error("the keys of the store cannot be read", folder=FOLDER, error=str(error))
            self._failing = True


def _digest(entry: str, number: int) -> bytes:
    match = _DIGEST.fullmatch(entry)
    if match:
        return bytes.fromhex(match[1])
    if entry.startswith("sha256:"):
        raise ConfigError(f"API key {number} starts with `sha256:` but 64 hex digits must follow.")
    if len(entry) < MIN_KEY_LENGTH or not entry.isascii() or not entry.isprintable() or " " in entry:
        raise ConfigError(
            f"API key {number} is refused: it needs at least {MIN_KEY_LENGTH} ASCII characters and no space. "
            'Make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return hashlib.sha256(entry.encode()).digest()
