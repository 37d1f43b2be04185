"""Idempotency-Key: the same key with the same request starts one job."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

from fastapi import Header

from app.auth import Caller
from app.context import Context, in_thread
from app.problems import Problem
from worker.records import JobRecord

IdempotencyKey = Annotated[
    str | None, Header(description="The same key with the same request starts one job only.", max_length=200)
]
"""The header, for the signature of a route."""

_PATTERN = re.compile(r"[\x21-\x7e]{1,200}")


@contextmanager
def once(context: Context, caller: Caller, key: str | None) -> Iterator[str | None]:
    """Hold a key while its request is being received by this process; what it is called in the records, or None.

    Raises:
        Problem: 400, it is no key; 409, a request with this key is being received.
    """
    if key is None:
        yield None
        return
    if not _PATTERN.fullmatch(key):
        raise Problem("malformed-request", "Idempotency-Key must be 1 to 200 visible ASCII characters.")
    own = f"{caller.id}:{key}"  # one caller's key is nobody else's business: two callers may pick the same one
    if own in context.idempotency:
        raise Problem(
            "idempotency-in-flight",
            "The first request with this key is still being received.",
            retry_after_s=5,
            close=True,
        )
    context.idempotency.add(own)
    try:
        yield own
    finally:
        context.idempotency.discard(own)


async def replayed(context: Context, caller: Caller, key: str | None, fingerprint: str | None) -> JobRecord | None:
    """The job that the same request started before, if it did. Ask before looking for what the request names, which may
    be gone by now, and before storing what it brings.

    Raises:
        IdempotencyMismatch: The key came with another request.
    """
    return await in_thread(context.services.jobs.replayed, caller.id, key, fingerprint) if key else None


def fingerprint(content: str, config: Mapping[str, Any], name: str | None) -> str:
    """What makes two requests the same: the file's hash and the canonical fields, not how they were encoded."""
    text = json.dumps([content, config, name], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
