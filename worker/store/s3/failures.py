"""What can go wrong between us and a bucket, in our words. Nothing of a request is repeated: it is signed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError

from worker.store.base import StoreUnavailable

__all__ = ["MISSING", "BotoCoreError", "ClientError", "said", "translated", "unavailable"]

MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
"""Codes for an object that is not there; a bucket that is not there is NoSuchBucket."""


def said(error: ClientError) -> tuple[str, int]:
    """The code and the HTTP status of an answer."""
    answer: dict[str, Any] = error.response
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(answer.get("Error", {}).get("Code", "")), int(status)


def unavailable(error: Exception) -> StoreUnavailable:
    """The error for whoever asked the store."""
    if isinstance(error, ClientError):
        code, status = said(error)
        return StoreUnavailable(f"The bucket answers {status} {code} to {error.operation_name}.")
    return StoreUnavailable(f"The bucket cannot be reached: {type(error).__name__}.")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Make every error of the client library one of ours."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise unavailable(error) from error
