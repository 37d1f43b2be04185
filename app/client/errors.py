"""What the client raises.

ClientError
├── ApiError                  the server answered with a problem
├── JobFailedError            a job that was waited for did not succeed
└── ServerUnreachableError    nobody answers at that address, or the line broke
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


class ClientError(Exception):
    """Base of the client's errors; the message is for people."""


class ServerUnreachableError(ClientError):
    """Nobody answers at that address, or the line broke."""


class ApiError(ClientError):
    """The server answered with a problem (RFC 9457).

    Attributes:
        status: HTTP status.
        code: Which problem, for programs: `unknown-model`, `store-full`.
        detail: What is wrong and what to do, for people.
        errors: Every single fault: `path` and `message`.
        request_id: Finds the request in the server's log.
        retry_after: Seconds after which to try again, where the server says so.
    """

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        errors: Sequence[Mapping[str, Any]] = (),
        request_id: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{detail} ({code}, HTTP {status})")
        self.status, self.code, self.detail = status, code, detail
        self.errors = tuple(dict(one) for one in errors)
        self.request_id, self.retry_after = request_id, retry_after


class JobFailedError(ClientError):
    """A job that was waited for failed or was cancelled.

    Attributes:
        job_id: Which.
        status: `failed` or `cancelled`.
        code: Why, for programs; None where it was cancelled.
        errors: Every single fault: `path` and `message`.
    """

    def __init__(self, job_id: str, status: str, problem: Mapping[str, Any] | None) -> None:
        detail = problem["detail"] if problem else f"The job {job_id} was {status}."
        super().__init__(str(detail))
        self.job_id, self.status = job_id, status
        self.code = problem.get("code") if problem else None
        self.errors = tuple(problem.get("errors") or ()) if problem else ()
