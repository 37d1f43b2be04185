"""What surrounds every request: an id, a log line, a count, safe headers, and an answer even to our own mistakes."""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections.abc import MutableMapping
from typing import Any

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app import problems
from app.metrics import Metrics

log = structlog.get_logger("app.request")

REQUEST_ID = "X-Request-ID"
_GIVEN_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")
_QUIET = frozenset({"/livez", "/readyz", "/metrics"})
NO_MATCH = "(none)"
LINGER_S, LINGER_BYTES = 2.0, 64 * 1024 * 1024

SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "Cache-Control": "no-store",
}


def route_template(scope: Scope) -> str:
    """The pattern of the route that matched, without its version prefix: a short fixed list."""
    route = scope.get("route")
    path = getattr(route, "path", None)
    return str(path).removeprefix("/v1") if path else NO_MATCH


class _Body:
    """The request's body on its way in, so that one knows whether it was read to its end."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        headers = Headers(scope=scope)
        self.complete = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
        self._awaits_go_ahead = headers.get("expect", "").lower() == "100-continue"
        self._receive = receive

    async def receive(self) -> Message:
        message = await self._receive()
        self._awaits_go_ahead = False
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self.complete = True
        return message

    async def linger(self) -> None:
        """Throw away a little more of a refused body, so that the sender gets to read the answer.

        Cutting the line while data is on its way makes the sender's system drop the answer.
        """
        if self._awaits_go_ahead:
            return  # it sends nothing before it is told to
        left = LINGER_BYTES
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LINGER_S):
                while not self.complete and left > 0:
                    left -= len((await self.receive()).get("body", b""))


class Surroundings:
    """Outermost of the app's own layers.

    Args:
        app: What it surrounds.
        metrics: Where requests are counted.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get(REQUEST_ID, "")
        request_id = given if _GIVEN_ID.fullmatch(given) else secrets.token_hex(8)
        started = time.perf_counter()
        status: MutableMapping[str, int] = {}
        body = _Body(scope, receive)

        async def send_framed(message: Message) -> None:
            if message["type"] == "http.response.start":
                status["code"] = message["status"]
                headers = MutableHeaders(scope=message)
                if message["status"] >= 400 and not body.complete:
                    await body.linger()
                    headers["Connection"] = "close"
                headers[REQUEST_ID] = request_id
                for name, value in SAFE_HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        self.metrics.requests_active.inc()
        with structlog.contextvars.bound_contextvars(request=request_id):
            try:
                await self.app(scope, body.receive, send_framed)
            except Exception as error:
                if "code" not in status or not isinstance(error, OSError):  # else the client went away
                    log.exception("unforeseen error", path=route_template(scope))
                if "code" not in status:
                    await problems.unforeseen(scope["path"][:500])(scope, body.receive, send_framed)
            finally:
                self.metrics.requests_active.dec()
                self._done(scope, status.get("code", 499), time.perf_counter() - started)

    def _done(self, scope: Scope, status: int, seconds: float) -> None:
        path = route_template(scope)
        self.metrics.observe_request(scope["method"], path, status, seconds)
        if path in _QUIET and status in (200, 503):  # 503 is one of the two answers of a probe
            return
        details: dict[str, Any] = {"method": scope["method"], "path": path, "status": status, "s": round(seconds, 4)}
        caller = scope.get("state", {}).get("caller")
        if caller is not None:
            details["key"] = caller.id
        log.info("request", **details)
