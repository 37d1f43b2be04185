"""Watches over connections: who sends no request, and who takes no answer, is not waited for.

uvicorn waits for both as long as the other side likes: a thousand such connections would keep everybody else out.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, ClassVar, Final, Generic, TypeVar

import structlog

from app.pace import Pace, Patience
from app.wire import last_answer

LOOK_EVERY_S: Final = 1
_AT_ONCE = struct.pack("ii", 1, 0)
_ACKED_AND_RECEIVED = struct.Struct("=120xQQ")
"""Where Linux's `struct tcp_info` tells how many bytes the other side has acknowledged, and how many it has sent."""

Known = TypeVar("Known")
log = structlog.get_logger(__name__)


class Watch(ABC, Generic[Known]):
    """Looks at every connection, and ends those that have tried its patience.

    Args:
        connections: uvicorn's own set of its open ones.
    """

    ended: ClassVar[str]
    """The line of the log."""

    def __init__(self, connections: Collection[Any]) -> None:
        self._connections = connections
        # What is known of each that is waited for. Made anew at every look, so that a connection that is gone is held
        # no longer than until the next one, whatever its request refers to.
        self._known: dict[Any, Known] = {}
        self._has_failed = False

    async def look(self) -> None:
        """Look at every connection once; uvicorn calls this every second, and would end with what it raises."""
        now, ended = time.monotonic(), 0
        before, self._known = self._known, {}
        for connection in tuple(self._connections):
            try:
                ended += self._look_at(connection, before.get(connection), now)
            except Exception:
                if not self._has_failed:  # once: a look is every second
                    self._has_failed = True
                    log.exception("a connection cannot be watched")
        if ended:
            log.info(self.ended, count=ended)

    @abstractmethod
    def _look_at(self, connection: Any, before: Known | None, now: float) -> bool:
        """Note in `_known` what is waited for, and end it where that was for too long; whether that was so."""


class HeadWatch(Watch[tuple[object, float]]):
    """Ends connections that have not sent the whole head of a request in time.

    Args:
        connections: uvicorn's own set of its open ones.
        patience_s: From the first look at a connection, or from its last answer, to the end of a head.
    """

    ended = "connections without a request ended"

    def __init__(self, connections: Collection[Any], patience_s: float) -> None:
        super().__init__(connections)
        self._patience_s = patience_s

    def _look_at(self, connection: Any, before: tuple[object, float] | None, now: float) -> bool:
        if not _lacks_a_head(connection):
            return False
        last, since = before or (None, now)
        if last is not connection.cycle:  # it has asked for something since
            since = now
        self._known[connection] = (connection.cycle, since)
        if now - since < self._patience_s:
            return False
        self._end(connection)
        return True

    def _end(self, connection: Any) -> None:
        answer = last_answer("request-timeout", f"No whole head of a request arrived in {self._patience_s:g} s.")
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


@dataclass(frozen=True)
class _Taking:
    """One connection with bytes that wait to be taken.

    Attributes:
        taken: How many have been, since it was opened.
        at: When that was seen.
        patience: What is left of it.
    """

    taken: int
    at: float
    patience: Patience


class ReaderWatch(Watch[_Taking]):
    """Ends connections whose other side does not take its answers, or takes them slower than a sender may send.

    What counts is what the other side has acknowledged, while there is more than the system takes off our hands: what
    that takes comes in lumps of megabytes. Linux tells; elsewhere nobody is ended. A proxy acknowledges in such lumps
    as well, whoever is behind it: once its own buffer is full it takes no more until about a third of that has gone.

    Args:
        connections: uvicorn's own set of its open ones.
        pace: The limits.
    """

    ended = "connections that take no answer ended"

    def __init__(self, connections: Collection[Any], pace: Pace) -> None:
        super().__init__(connections)
        self._pace = pace

    def _look_at(self, connection: Any, before: _Taking | None, now: float) -> bool:
        # One that is closing is looked at as well: it closes when everything is taken, and no sooner.
        if connection.transport is None or not connection.transport.get_write_buffer_size():
            return False
        taken = taken_bytes(connection.transport)
        if taken is None:
            return False
        patience = before.patience if before else Patience(self._pace)
        if before and not patience.arrived(taken - before.taken, now - before.at):
            # No word to the reader: it would wait behind the rest. Nor is what the system holds sent to the end.
            connection.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            connection.transport.abort()
            return True
        self._known[connection] = _Taking(taken, now, patience)
        return False


def taken_bytes(transport: Any) -> int | None:
    """How many bytes the other side has acknowledged; None where the system does not tell."""
    opened = transport.get_extra_info("socket")
    if sys.platform != "linux" or opened is None or opened.family not in (socket.AF_INET, socket.AF_INET6):
        return None
    told = opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKED_AND_RECEIVED.size)
    if len(told) < _ACKED_AND_RECEIVED.size:  # a kernel that does not count says less
        return None
    acked, received = _ACKED_AND_RECEIVED.unpack(told)
    # Or counts nothing, where an answer waits for which something was asked. Nothing acknowledged is an answer of its
    # own: who never opens its window has taken nothing at all.
    return int(acked) if received else None
