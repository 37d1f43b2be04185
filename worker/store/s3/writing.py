"""One write of an object, under a condition or none, and what the answers of servers mean for it.

A write that the client library repeated may meet what its own first try has written: each leaves a random mark in the
metadata, by which it is known again. Servers differ in what they take for an ETag and in how they refuse; what is known
of them is here, each with the server that it was seen at.
"""

from __future__ import annotations

import base64
import random
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from worker.store.base import StoreUnavailable
from worker.store.s3.failures import MISSING, BotoCoreError, ClientError, said, unavailable
from worker.store.s3.objects import MARK, SHA256, Head

TRIES = 5
"""Times that something is asked for in all."""
LOST_RACE = "UnknownError"
"""Ceph says so, with a status of 500, to those of several conditional writes at once that came too late."""

Send = Callable[[Mapping[str, str], Mapping[str, str]], Any]
"""Sends an object with its metadata under conditions, as the client library names them; its answer."""


class Writing:
    """The writes to one bucket.

    Args:
        head: Looks an object up there.
    """

    def __init__(self, head: Callable[[str], Head | None]) -> None:
        self._head = head
        self._bare = False  # whether the server takes an ETag without its quotes, as Ceph 16 does

    def write(self, key: str, sha256: str, send: Send, create_only: bool, match: str | None) -> str | None:
        """Write an object.

        Args:
            key: Its name.
            sha256: Of its bytes, in hex.
            send: Does it.
            create_only: Only where there is none.
            match: Only where the one there has this ETag.

        Returns:
            Its ETag, which may be empty for one that went in parts; None where the condition does not hold.
        """
        mark = secrets.token_hex(16)
        bare, turned = self._bare, False
        for pause in pauses(TRIES):
            conditions = _conditions(create_only, match, bare)
            try:
                etag = str(send({SHA256: sha256, MARK: mark}, conditions)["ETag"])
            except ClientError as error:
                code, status = said(error)
                if conditions and (status == 409 or code == LOST_RACE):  # two at once: now it can be judged
                    time.sleep(pause)
                    continue
                if status == 400 and bare is not self._bare:
                    return None  # that form is none for this server: the condition did not hold, and it is free again
                if status not in (404, 412) or code == "NoSuchBucket":
                    raise unavailable(error) from error
                head = self._head(key)
                if head is not None and head.metadata.get(MARK) == mark:
                    return head.etag  # the answer to an earlier try was lost
                if status == 412 and head is not None and head.etag == match and not turned:
                    bare, turned = not bare, True  # refused although it is the very one
                    continue
                if status == 412 or (conditions and code in MISSING):
                    return None
                raise unavailable(error) from error
            except BotoCoreError as error:
                raise unavailable(error) from error
            if match is not None:
                self._bare = bare
            return etag
        raise StoreUnavailable(f"Two or more write {key} at once, again and again.")


def in_header(sha256: bytes) -> str:
    """A checksum as the protocol wants it."""
    return base64.b64encode(sha256).decode()


def pauses(count: int) -> Iterator[float]:
    """Seconds before each further try, growing, and not the same for everybody."""
    return (0.1 * 2**number * random.uniform(0.5, 1.0) for number in range(count))  # noqa: S311 - no secret


def _conditions(create_only: bool, match: str | None, bare: bool) -> dict[str, str]:
    if create_only:
        return {"IfNoneMatch": "*"}
    if match is None:
        return {}
    return {"IfMatch": match.strip('"') if bare else match}
