"""What can go wrong between us and a bucket, in our words. Nothing of a request is repeated: it is signed."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from botocore.exceptions import BotoCoreError, ClientError, ParamValidationError

from worker.store.base import StoreRefused, StoreUnavailable

__all__ = ["MISSING", "BotoCoreError", "ClientError", "answered", "said", "translated", "unavailable"]

MISSING = frozenset({"NoSuchKey", "404", "NotFound"})
"""Codes for an object that is not there; a bucket that is not there is NoSuchBucket."""
TRANSIENT_STATUS = frozenset({408, 409, 412, 429})
TRANSIENT = frozenset(
    {
        # too much at once, or too slow
        "BandwidthLimitExceeded",
        "RequestLimitExceeded",
        "RequestThrottled",
        "RequestThrottledException",
        "RequestTimeout",
        "RequestTimeoutException",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
        # damaged or cut off on its way
        "BadDigest",
        "IncompleteBody",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
        # an upload in parts that somebody ended meanwhile: another try begins a new one
        "NoSuchUpload",
        # credentials that are about to be renewed, a clock that is about to be set
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "TokenRefreshRequired",
    }
)
"""Codes that servers send with a status of 400 to 499 although the same request may be taken later."""


def said(error: ClientError) -> tuple[str, int]:
    """The code and the HTTP status of an answer."""
    answer: dict[str, Any] = error.response
    status = answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    return str(answer.get("Error", {}).get("Code", "")), int(status)


def unavailable(error: Exception) -> StoreUnavailable:
    """The error for whoever asked the store: a StoreRefused where asking again would not help."""
    if isinstance(error, ClientError):
        return answered(*said(error), error.operation_name)
    if isinstance(error, ParamValidationError):
        return StoreRefused("The bucket cannot be asked for that: the client library refuses the request.")
    return StoreUnavailable(f"The bucket cannot be reached: {type(error).__name__}.")


def answered(code: str, status: int, operation: str) -> StoreUnavailable:
    """The error for an answer of the server that is no success."""
    final = 300 <= status < 500 and status not in TRANSIENT_STATUS and code not in TRANSIENT
    kind = StoreRefused if final else StoreUnavailable
    return kind(f"The bucket answers {status} {code} to {operation}.")


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Make every error of the client library one of ours."""
    try:
        yield
    except (ClientError, BotoCoreError) as error:
        raise unavailable(error) from error
