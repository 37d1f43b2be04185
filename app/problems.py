"""Every error answer is `application/problem+json` (RFC 9457). The one table from error codes to HTTP statuses is here.

`type` is `/problems/<code>`, which this server answers with an explanation; `code` repeats the last part, for programs.
"""

from __future__ import annotations

import errno
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from npt_core.errors import Fault, NPTError, OverloadedError
from worker.store.base import StoreRefused, StoreUnavailable

MEDIA_TYPE = "application/problem+json"
MAX_FAULTS = 1000
DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Kind:
    """One kind of problem: its status, its title, and what a client does about it."""

    status: int
    title: str
    remedy: str


_RETRY = "Send the request again after the seconds in Retry-After."
_FIX = "Correct what `errors` lists and send the request again."

KINDS: dict[str, Kind] = {
    # what a request can get wrong
    "malformed-request": Kind(400, "The request cannot be read", "Compare it with /docs."),
    "invalid-request": Kind(422, "The request holds values that are not accepted", _FIX),
    "unauthorized": Kind(401, "A valid API key is needed", "Send `Authorization: Bearer KEY` or `X-API-Key: KEY`."),
    "forbidden": Kind(403, "This request is not allowed", "The detail says why; the operator can change it."),
    "forbidden-host": Kind(403, "Unknown Host", "Use an address of the server, or have it allowed."),
    "forbidden-origin": Kind(403, "Cross-site request", "Call from a program, or have the site allowed."),
    "not-found": Kind(404, "There is no such thing", "List what there is: /datasets, /jobs, /models."),
    "unknown-model": Kind(404, "There is no such model", "List the models: GET /models."),
    "method-not-allowed": Kind(405, "This path does not accept this method", "See the Allow header and /docs."),
    "request-timeout": Kind(408, "The request stopped arriving", "Send it again over a steadier connection."),
    "conflict": Kind(409, "The thing is in a state, or a use, that forbids this", "The detail says what holds it."),
    "gone": Kind(410, "It was there and was removed", "The detail says how to have it made again."),
    "job-finished": Kind(409, "The job has ended", "Read its record: GET /jobs/{id}."),
    "idempotency-in-flight": Kind(409, "A request with this key is being worked on", _RETRY),
    "idempotency-mismatch": Kind(422, "This key was used for another request", "Use a new Idempotency-Key."),
    "length-required": Kind(411, "The length of the request is missing", "Send Content-Length, or a chunked body."),
    "too-large": Kind(413, "The request is too large", "Send less at once; the detail names the limit."),
    "archive-too-large": Kind(413, "The archive is over a limit", "Send less; the detail names the limit."),
    "unsupported-media-type": Kind(415, "This content is not accepted here", "The detail lists what is accepted."),
    "headers-too-large": Kind(431, "The headers are too large", "Send shorter headers."),
    # content that cannot be used
    "invalid-config": Kind(422, "The config cannot be used", _FIX),
    "incompatible-config": Kind(422, "Settings that make no sense together", _FIX),
    "invalid-data": Kind(422, "The data cannot be used", _FIX),
    "invalid-archive": Kind(422, "The archive cannot be used", _FIX),
    "invalid-model": Kind(422, "The file holds no model that can be used", "Export it again: GET /models/{id}/export."),
    "invalid-edit": Kind(422, "The data set cannot be changed like this", _FIX),
    "invalid-feedback": Kind(422, "The labels cannot be kept", _FIX),
    "unusable-dataset": Kind(422, "Nothing can be learned from this data set", _FIX),
    "invalid-image": Kind(422, "The image cannot be read", "Send JPEG, PNG, WebP, BMP, GIF or TIFF."),
    "invalid-prompt": Kind(422, "A class name cannot be used in a prompt", _FIX),
    "prompt-too-long": Kind(422, "A class name is too long for the text tower", "Shorten it, or lower `n_ctx`."),
    "duplicate-prompt": Kind(422, "Two classes are called by the same words", "Name them apart with `class_names`."),
    "unknown-backbone": Kind(422, "There is no such backbone", "Pick one of GET /backbones."),
    "unsupported-backbone": Kind(422, "This backbone cannot take prompts", "Pick another of GET /backbones."),
    "not-exportable": Kind(422, "The model cannot be exported like this", "Use format=zip; the detail says why."),
    "no-labels": Kind(422, "Zero-shot needs class names", "Send `labels`, a JSON list of names."),
    # what the model or the server cannot do
    "fingerprint-mismatch": Kind(409, "The model was made with other weights", "Tune again with the present backbone."),
    "backbone-not-configured": Kind(
        409, "The model's backbone is not on this server", "The operator adds it to NPT_BACKBONES."
    ),
    "backbone": Kind(503, "The backbone cannot be used", "The operator finds the reason in the log."),
    "backbone-unavailable": Kind(503, "The weights of the backbone cannot be had", "The detail says why."),
    "extra-missing": Kind(501, "This server cannot do that as it is", "The operator installs what the detail names."),
    "export-failed": Kind(500, "The export could not be made", "The operator finds the reason in the log."),
    "invalid-artefact": Kind(500, "The stored model cannot be read", "Tune again; the operator can restore the file."),
    "corrupt-record": Kind(500, "A stored record cannot be read", "The operator can restore the file."),
    "non-finite-loss": Kind(422, "The tuning diverged", "Lower `lr`."),
    "out-of-memory": Kind(503, "Not enough memory", "Use fewer classes or images, or a smaller backbone."),
    "overloaded": Kind(503, "The server is full", _RETRY),
    "not-ready": Kind(503, "The server is not ready", _RETRY),
    "broker-unavailable": Kind(503, "The queue does not answer", _RETRY),
    "rate-limited": Kind(429, "This key sends too many requests", _RETRY),
    "quota-exceeded": Kind(
        429, "This key has uploaded what it may for today", "Wait for midnight (UTC), or ask for more."
    ),
    "store-full": Kind(507, "The store is full", "Delete data sets, models or jobs, or have the operator make room."),
    "store-refused": Kind(500, "The store refuses a request", "The operator finds the reason in the log."),
    "internal-error": Kind(500, "The server made a mistake", "Report it with the request id; the log has the rest."),
    # how a job can end
    "cancelled": Kind(409, "The job was cancelled", "Start a new one."),
    "deadline-exceeded": Kind(422, "The job took longer than it may", "Use fewer epochs or images."),
    "stalled": Kind(500, "The job made no step for too long", "Start it again; the operator finds more in the log."),
    "poison": Kind(500, "The job killed its worker again and again", "Start it with less data; report it."),
}
"""Explained at `/problems/<code>`."""

BY_STATUS = {
    400: "malformed-request",
    401: "unauthorized",
    403: "forbidden",
    404: "not-found",
    405: "method-not-allowed",
    408: "request-timeout",
    409: "conflict",
    410: "gone",
    411: "length-required",
    413: "too-large",
    415: "unsupported-media-type",
    422: "invalid-request",
    429: "rate-limited",
    431: "headers-too-large",
    501: "extra-missing",
    503: "not-ready",
    507: "store-full",
}


class Problem(Exception):  # noqa: N818 - an answer, not a fault of the program
    """An answer that is a problem, raised anywhere below a route."""

    def __init__(
        self,
        code: str,
        detail: str,
        faults: Iterable[Fault] = (),
        *,
        headers: Mapping[str, str] | None = None,
        retry_after_s: float | None = None,
        close: bool = False,
    ) -> None:
        super().__init__(detail)
        self.code, self.detail, self.faults = code, detail, tuple(faults)
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(max(1, round(retry_after_s)))
        if close:
            self.headers["Connection"] = "close"


def kind_of(code: str) -> Kind:
    """What is known of a code; an unknown one is a mistake of ours, not of the client."""
    return KINDS.get(code, KINDS["internal-error"])


def as_dict(
    code: str, detail: str, faults: Iterable[Fault] = (), *, instance: str | None = None, status: int | None = None
) -> dict[str, Any]:
    """A problem as JSON-able values."""
    kind = kind_of(code)
    body: dict[str, Any] = {
        "type": f"/problems/{code}",
        "code": code,
        "title": kind.title if code in KINDS else code.replace("-", " ").capitalize(),
        "status": status or kind.status,
        "detail": detail,
    }
    if instance is not None:
        body["instance"] = instance
    listed = list(faults)
    if listed:
        body["errors"] = [{"path": fault.path, "message": fault.message} for fault in listed[:MAX_FAULTS]]
        if len(listed) > MAX_FAULTS:
            body["errors_left_out"] = len(listed) - MAX_FAULTS
    return body


def response(
    code: str,
    detail: str,
    faults: Iterable[Fault] = (),
    *,
    instance: str | None = None,
    headers: Mapping[str, str] | None = None,
    status: int | None = None,
) -> Response:
    """A problem as an HTTP answer."""
    body = as_dict(code, detail, faults, instance=instance, status=status)
    text = json.dumps(body, ensure_ascii=False).encode("utf-8", errors="replace")
    return Response(text, body["status"], headers=dict(headers or {}), media_type=MEDIA_TYPE)


def from_error(error: NPTError) -> Problem:
    """The problem that an error of the lower floors becomes."""
    retry = None
    if isinstance(error, OverloadedError):
        retry = error.retry_after_s
    elif kind_of(error.code).status in (429, 503) or error.code == "idempotency-in-flight":
        retry = 5.0
    return Problem(error.code, error.message, error.faults, retry_after_s=retry)


def _instance(request: Request) -> str:
    path: str = request.scope.get("path", "")
    return path[:500]


def install(app: FastAPI) -> None:
    """Make every error of `app` a problem."""

    @app.exception_handler(Problem)
    async def _problem(request: Request, error: Problem) -> Response:
        return response(error.code, error.detail, error.faults, instance=_instance(request), headers=error.headers)

    @app.exception_handler(NPTError)
    async def _deliberate(request: Request, error: NPTError) -> Response:
        if kind_of(error.code).status >= 500 and not isinstance(error, OverloadedError):
            log.warning("request failed", code=error.code, detail=error.message)
        return await _problem(request, from_error(error))

    @app.exception_handler(RequestValidationError)
    async def _invalid(request: Request, error: RequestValidationError) -> Response:
        faults = [Fault(*_in_words(entry)) for entry in error.errors()]
        detail = "The request is not accepted: " + "; ".join(f"{f.path}: {f.message}" for f in faults[:3]) + "."
        return response("invalid-request", detail, faults, instance=_instance(request))

    @app.exception_handler(HTTPException)
    async def _http(request: Request, error: HTTPException) -> Response:
        code = BY_STATUS.get(error.status_code, "internal-error" if error.status_code >= 500 else "malformed-request")
        detail = error.detail if isinstance(error.detail, str) else HTTPStatus(error.status_code).phrase
        if code == "not-found" and detail == "Not Found":
            detail = "Nothing is at this path; /docs lists what there is."
        elif code == "method-not-allowed":
            allowed = (error.headers or {}).get("Allow", "")
            detail = f"{request.method} is not accepted here" + (f"; use {allowed}." if allowed else ".")
        return response(code, detail, instance=_instance(request), headers=error.headers, status=error.status_code)

    @app.exception_handler(OSError)
    async def _disk(request: Request, error: OSError) -> Response:
        if isinstance(error, StoreRefused):
            log.error("the store refuses a request", error=str(error))
            return response("store-refused", "The store refuses this request.", instance=_instance(request))
        if isinstance(error, StoreUnavailable):
            log.warning("the store does not answer", error=str(error))
            headers = {"Retry-After": "5"}
            return response("not-ready", "The store does not answer.", instance=_instance(request), headers=headers)
        if error.errno not in DISK_FULL:
            raise error  # the outermost layer logs it and answers
        return response("store-full", "The data volume is full.", instance=_instance(request))


def unforeseen(instance: str) -> Response:
    """The answer to a mistake of ours: no message, no type, no stack trace."""
    detail = "Something went wrong in the server. The log has the details under this answer's X-Request-ID."
    return response("internal-error", detail, instance=instance)


def _in_words(entry: Mapping[str, Any]) -> tuple[str, str]:
    """Where a fault of a request is, and what it is, in words for who does not know how the server is built."""
    path, kind = _path(entry["loc"]), str(entry["type"])
    if kind == "json_invalid":
        reason = (entry.get("ctx") or {}).get("error", "")
        return "body", f"is not JSON ({reason} at character {path})"
    if kind in ("model_attributes_type", "dict_type", "model_type"):
        what = "a JSON object" if path else "a JSON object, sent with the header Content-Type: application/json"
        return path or "body", f"must be {what}"
    if kind == "extra_forbidden":
        return path, "is not a field here"
    if kind == "missing":
        return path or "body", "is missing"
    return path or "body", str(entry["msg"])


def _path(location: Iterable[Any]) -> str:
    """`('query', 'limit')` as `limit`; a body field keeps its full path."""
    parts = [str(part) for part in location]
    if parts and parts[0] in ("query", "path", "header", "body", "cookie"):
        parts = parts[1:]
    return ".".join(parts)
