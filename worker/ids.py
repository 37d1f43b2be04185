"""Ids: made by the server, time-ordered, matched by a pattern before they come near a path or a key.

An id is `<kind>_` and 26 characters: 48 bits of milliseconds, then 80 random bits, in Crockford's base 32, lower case.
Ids of one process rise strictly, so that sorting ids sorts by age and a page of a listing needs no scan.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterator
from typing import Any

from worker.errors import NotFoundError

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
ID_PATTERN = re.compile(r"^[a-z]{2,8}_[0-9a-hjkmnp-tv-z]{26}$")
DATASET_ID_PATTERN = re.compile(r"^[0-9a-f]{64}$")

_lock = threading.Lock()
_last = 0


def _base32(value: int, length: int) -> str:
    return "".join(ALPHABET[(value >> shift) & 31] for shift in range(5 * (length - 1), -1, -5))


def new_id(kind: str) -> str:
    """A new id of that kind (`job`, `model`); rises strictly within a process."""
    global _last
    with _lock:
        value = (time.time_ns() // 1_000_000 << 80) | secrets.randbits(80)
        if value <= _last:  # same millisecond or a clock stepped back: keep rising
            value = _last + 1 + secrets.randbits(32)
        _last = value
    return f"{kind}_{_base32(value, 26)}"


def check_id(value: str, kind: str) -> str:
    """The id itself if it can be one of that kind.

    Raises:
        NotFoundError: it cannot; an id that was never made is an id of nothing.
    """
    if not ID_PATTERN.fullmatch(value) or not value.startswith(f"{kind}_"):
        raise NotFoundError(f"There is no {kind} with the id {value[:80]!r}.")
    return value


def check_dataset_id(value: str) -> str:
    """Like `check_id` for data sets, whose ids are content hashes."""
    if not DATASET_ID_PATTERN.fullmatch(value):
        raise NotFoundError(f"There is no data set with the id {value[:80]!r}.")
    return value


def ids_in(value: Any, kind: str) -> Iterator[str]:
    """Every id of that kind among the values of a job's config, however deep: `parent`, a list of models."""
    if isinstance(value, dict):
        for entry in value.values():
            yield from ids_in(entry, kind)
    elif isinstance(value, list | tuple):
        for entry in value:
            yield from ids_in(entry, kind)
    elif isinstance(value, str) and value.startswith(f"{kind}_") and ID_PATTERN.fullmatch(value):
        yield value
