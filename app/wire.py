"""What happens below the application: requests that are no HTTP, and connections that never get to ask for anything.

h11 reads HTTP here whatever else is installed: it bounds what it keeps of the head of a request (16 KiB), and uvicorn's
other parser does not.
"""

from __future__ import annotations

import time
from collections.abc import Collection
from http import HTTPStatus
from typing import Any, Final

import h11
import structlog
from starlette.responses import Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from app import problems
from app.middleware import SAFE_HEADERS

LOOK_EVERY_S: Final = 1

log = structlog.get_logger(__name__)


def _answer(code: str, detail: str) -> Response:
    return problems.response(code, detail, headers=SAFE_HEADERS | {"Connection": "close"})


class Wire(H11Protocol):
    """uvicorn's, with our answer to what is no HTTP."""

    def send_400_response(self, msg: str) -> None:
        """Answer what cannot be read, unless an answer is on its way already; then hang up."""
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            answer = _answer("malformed-request", "The request is no HTTP/1.1 that this server reads.")
            head = h11.Response(status_code=answer.status_code, headers=answer.raw_headers)
            for event in (head, h11.Data(data=bytes(answer.body)), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


class HeadWatch:
    """Ends connections that have not sent the whole head of a request in time.

    uvicorn waits for it as long as the sender likes: a thousand silent connections would keep everybody else out.

    Args:
        connections: uvicorn's own set of its open ones.
        patience_s: From the first look at a connection, or from its last answer, to the end of a head.
    """

    def __init__(self, connections: Collection[Any], patience_s: float) -> None:
        self._connections, self._patience_s = connections, patience_s
        # For each that waits: its last request and since when. Made anew at every look, so that a connection that is
        # gone is held no longer than until the next one, whatever its request refers to.
        self._waiting: dict[Any, tuple[object, float]] = {}
        self._has_failed = False

    async def look(self) -> None:
        """Look at every connection once; uvicorn calls this every second, and would end with what it raises."""
        now, ended = time.monotonic(), 0
        before, self._waiting = self._waiting, {}
        for connection in tuple(self._connections):
            try:
                if _lacks_a_head(connection):
                    ended += self._waits(connection, before.get(connection), now)
            except Exception:
                if not self._has_failed:  # once: a look is every second
                    self._has_failed = True
                    log.exception("a connection cannot be watched")
        if ended:
            log.info("connections without a request ended", count=ended, after_s=self._patience_s)

    def _waits(self, connection: Any, before: tuple[object, float] | None, now: float) -> bool:
        """Note that a connection waits, and end it where it has for too long; whether that was so."""
        last, since = before or (None, now)
        if last is not connection.cycle:  # it has asked for something since
            since = now
        self._waiting[connection] = (connection.cycle, since)
        if now - since < self._patience_s:
            return False
        self._end(connection)
        return True

    def _end(self, connection: Any) -> None:
        answer = _answer("request-timeout", f"No whole head of a request arrived in {self._patience_s:g} s.")
        status = f"HTTP/1.1 {answer.status_code} {HTTPStatus(answer.status_code).phrase}\r\n".encode()
        headers = b"".join(name + b": " + value + b"\r\n" for name, value in answer.raw_headers)
        connection.transport.write(status + headers + b"\r\n" + bytes(answer.body))
        connection.transport.close()


def _lacks_a_head(connection: Any) -> bool:
    """Neither at work on a request, nor between two of them, where uvicorn has a clock of its own."""
    if connection.transport is None or connection.transport.is_closing():
        return False
    if connection.cycle is None:
        return True
    return bool(connection.cycle.response_complete) and connection.timeout_keep_alive_task is None
