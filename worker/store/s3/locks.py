"""Locks between machines, by conditional writes alone: no clock of one machine is compared with another's.

A lock is a small object `locks/<name>`, free or held, that is only ever replaced where its ETag is the one that was
seen. Who holds it writes it anew every few seconds. Who waits and has seen the same ETag for `TTL_S` of its own clock
takes the holder for dead and replaces it. The threads of one process queue before they ask the bucket.

A holder that stands still for longer than `TTL_S` (a stopped process, a bucket that did not answer) may lose its lock
and go on, unaware, until it lets go; what is done under a lock is short, and decided by create-only writes where two
doing it would harm.
"""

from __future__ import annotations

import contextlib
import json
import random
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from worker.errors import NotFoundError
from worker.store.base import StoreUnavailable, check_key
from worker.store.s3.bucket import Bucket

log = structlog.get_logger(__name__)

TTL_S = 20.0
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 0.5


@dataclass
class _Known:
    """What this process knows of one lock.

    Attributes:
        queue: Of its threads.
        free_etag: Of the free object it left itself: taken in one request, if nobody else has taken it.
        seen: An ETag of a holder, and since when, on the clock of this machine.
    """

    queue: threading.Lock = field(default_factory=threading.Lock)
    free_etag: str | None = None
    seen: tuple[str, float] | None = None


class Locks:
    """The locks of a bucket.

    Args:
        bucket: Which.
        ttl_s: A holder that has not written for so long is dead.
    """

    def __init__(self, bucket: Bucket, ttl_s: float = TTL_S) -> None:
        self._bucket, self._ttl_s = bucket, ttl_s
        self._known: dict[str, _Known] = {}
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def hold(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        """Hold a lock while the block runs; whether it is held, which is only ever False where `wait` is."""
        key = f"locks/{check_key(name)}"
        with self._lock:
            known = self._known.setdefault(name, _Known())
        if not known.queue.acquire(blocking=wait):
            yield False
            return
        try:
            etag = self._take(key, known, wait=wait)
            if etag is None:
                yield False
                return
            with _Held(self._bucket, key, etag, self._ttl_s / 4) as held:
                yield True
            known.free_etag = held.freed
        finally:
            known.queue.release()

    def _take(self, key: str, known: _Known, *, wait: bool) -> str | None:
        """The ETag under which it is ours; None where somebody else holds it and we do not wait."""
        if known.free_etag is not None:
            etag, known.free_etag = self._bucket.put(key, _held(), match=known.free_etag), None
            if etag is not None:
                return etag
        pause = FIRST_PAUSE_S
        while True:
            etag = self._try(key, known)
            if etag is not None or not wait:
                return etag
            time.sleep(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
            pause = min(LONGEST_PAUSE_S, 2 * pause)

    def _try(self, key: str, known: _Known) -> str | None:
        head = self._bucket.head(key)
        if head is None:
            return self._bucket.put(key, _held(), create_only=True)
        try:
            free = self._bucket.get(key) == FREE
        except NotFoundError:  # somebody has removed it
            return None
        now = time.monotonic()
        if not free:
            if known.seen is None or known.seen[0] != head.etag:
                known.seen = (head.etag, now)
            if now - known.seen[1] < self._ttl_s:
                return None
            log.warning("lock taken from a holder that is silent", lock=key, silent_s=round(now - known.seen[1]))
        known.seen = None
        return self._bucket.put(key, _held(), match=head.etag)


FREE = b"{}"


def _held() -> bytes:
    """Never the same twice: its ETag tells who holds it, and that they live."""
    return json.dumps({"held": secrets.token_hex(16)}).encode()


class _Held:
    """One holding of a lock: written anew in a thread of its own, let go at the end.

    Attributes:
        freed: The ETag of the free object; None where the lock was lost.
    """

    def __init__(self, bucket: Bucket, key: str, etag: str, every_s: float) -> None:
        self._bucket, self._key, self._every_s = bucket, key, every_s
        self._etag: str | None = etag
        self.freed: str | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._renew, name=f"lock {key}", daemon=True)

    def __enter__(self) -> _Held:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._etag is not None:
            try:
                self.freed = self._bucket.put(self._key, FREE, match=self._etag)
            except StoreUnavailable as error:  # it will be found silent
                log.error("lock not let go", lock=self._key, error=str(error))
                return
        if self.freed is None:
            log.error("lock was lost while it was held", lock=self._key)

    def _renew(self) -> None:
        while self._etag is not None and not self._stop.wait(self._every_s):
            try:
                self._etag = self._bucket.put(self._key, _held(), match=self._etag)
            except StoreUnavailable as error:
                log.warning("lock not renewed", lock=self._key, error=str(error))
