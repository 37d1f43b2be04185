"""Requests written by hand, byte for byte, and what is heard back."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from tests.security.conftest import ANSWER_S, KEY, Target

SAFE = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Answer:
    """What came back before the line was cut; status 0: nothing."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        return str(json.loads(self.body)["code"])

    @classmethod
    def of(cls, raw: bytes) -> Answer:
        head, _, body = raw.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        if not first.startswith("HTTP/1."):
            return cls(0, {}, raw)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        length = int(headers.get("content-length", len(body)))
        return cls(int(first.split(" ")[1]), headers, body[:length])


@contextlib.contextmanager
def line(target: Target) -> Iterator[socket.socket]:
    parts = urlsplit(target.service.url)
    with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=ANSWER_S) as opened:
        yield opened


def hear(opened: socket.socket) -> Answer:
    """Everything until the other side hangs up."""
    received = b""
    with contextlib.suppress(ConnectionError):
        while piece := opened.recv(65536):
            received += piece
    return Answer.of(received)


def hear_until(opened: socket.socket, word: bytes) -> bytes:
    """Everything as far as a word; the other side must not hang up before it."""
    received = b""
    while not received.endswith(word):
        piece = opened.recv(65536)
        assert piece, f"hung up on before {word!r} came, after {received[-200:]!r}"
        received += piece
    return received


def head(target: Target, *lines: str, first: str = "POST /datasets HTTP/1.1", kind: str = "application/zip") -> bytes:
    """The head of a request, as it should be but for `lines`."""
    host = urlsplit(target.service.url).netloc
    own = ["Connection: close", f"X-API-Key: {KEY}", f"Content-Type: {kind}"]
    return "\r\n".join([first, f"Host: {host}", *own, *lines, "", ""]).encode("latin-1")


def talk(target: Target, raw: bytes) -> Answer:
    """Send bytes, tell the other side that no more will come only by waiting, and listen."""
    with line(target) as opened:
        with contextlib.suppress(ConnectionError):
            opened.sendall(raw)
        return hear(opened)


def refused(answer: Answer, status: int, code: str) -> None:
    assert (answer.status, answer.code) == (status, code), answer
    assert answer.headers["content-type"] == "application/problem+json"
    assert {name: answer.headers.get(name) for name in SAFE} == SAFE
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert "server" not in answer.headers or "uvicorn" not in answer.headers["server"]
