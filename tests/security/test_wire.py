"""Requests written by hand against the HTTP parser: what is no HTTP, what has two lengths, what never ends."""

from __future__ import annotations

import contextlib
import socket
import ssl
import struct

import pytest

from tests.security.by_hand import Answer, head, hear, line, refused, talk
from tests.security.conftest import KEY, Target
from tests.security.corpus.case import GOOD
from tests.support.service import wait_for
from tests.support.zips import raw_zip

ZIP = raw_zip(GOOD[:1])

CUT = frozenset({"headers-without-end", "chunk-comment-of-200-kb"})
"""Of these the server hangs up with bytes unread: the line is reset, and the answer or its body may be lost with it."""


def is_cut(name: str, answer: Answer) -> bool:
    return name in CUT and answer.status in (0, 400) and not answer.body


NO_HTTP: dict[str, bytes] = {
    "noise": bytes(range(256)),
    "lines": b"\r\n" * 50 + b"hello\r\n\r\n",
    "version-0.9": b"GET /livez\r\n\r\n",
    "version-2-by-upgrade": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "space-in-the-path": b"GET /li vez HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "nul-in-a-header": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
    "space-before-a-colon": b"GET /livez HTTP/1.1\r\nHost : localhost\r\n\r\n",
    "header-without-a-name": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n: x\r\n\r\n",
    "no-host": b"GET /livez HTTP/1.1\r\n\r\n",
    "two-hosts": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "headers-without-end": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000,
    "tls": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
    "smtp": b"EHLO evil.example\r\nMAIL FROM:<a@b>\r\n\r\n",
    "redis": b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$1\r\nb\r\n\r\n\r\n",
}


@pytest.mark.parametrize("name", NO_HTTP)
def test_what_is_no_http_is_told_so(target: Target, name: str) -> None:
    answer = talk(target, NO_HTTP[name])
    if not is_cut(name, answer):
        refused(answer, 400, "malformed-request")
        assert answer.headers["connection"] == "close"
    assert target.client.get("/livez").status_code == 200


LARGE: dict[str, bytes] = {
    "a-path-of-200-kb": b"GET /" + b"a" * 200_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a-header-of-200-kb": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
    "thousands-of-headers": b"GET /livez HTTP/1.1\r\nHost: localhost\r\n" + b"X: y\r\n" * 20_000 + b"\r\n",
}


@pytest.mark.parametrize("raw", LARGE.values(), ids=list(LARGE))
def test_a_large_head_is_read_or_refused_and_breaks_nothing(target: Target, raw: bytes) -> None:
    """The parser's limit is on what it has to keep while it waits for more: what comes at once may be longer."""
    answer = talk(target, raw.replace(b"\r\nHost: localhost", b"\r\nConnection: close\r\nHost: localhost"))
    assert answer.status in (0, 200, 400, 404), answer  # 0: reset before the answer was read
    assert target.client.get("/livez").status_code == 200


FRAMING: dict[str, tuple[list[str], bytes]] = {
    "length-negative": (["Content-Length: -5"], b""),
    "length-signed": (["Content-Length: +5"], b"hello"),
    "length-a-word": (["Content-Length: many"], b""),
    "length-hexadecimal": (["Content-Length: 0x10"], b""),
    "length-a-fraction": (["Content-Length: 1e3"], b""),
    "length-twice": (["Content-Length: 5", "Content-Length: 6"], b"hello"),
    "length-in-a-list": (["Content-Length: 5, 6"], b"hello"),
    "length-of-100-digits": ([f"Content-Length: {'9' * 100}"], b""),
    "coding-unknown": (["Transfer-Encoding: gzip, chunked"], b"0\r\n\r\n"),
    "coding-twice": (["Transfer-Encoding: chunked", "Transfer-Encoding: identity"], b"0\r\n\r\n"),
    "coding-hidden": (["Transfer-Encoding: xchunked"], b"0\r\n\r\n"),
    "chunk-of-no-number": (["Transfer-Encoding: chunked"], b"zz\r\nhello\r\n0\r\n\r\n"),
    "chunk-negative": (["Transfer-Encoding: chunked"], b"-5\r\nhello\r\n0\r\n\r\n"),
    "chunk-of-64-bits": (["Transfer-Encoding: chunked"], b"f" * 40 + b"\r\nhello"),
    "chunk-longer-than-it-says": (["Transfer-Encoding: chunked"], b"2\r\nhello\r\n0\r\n\r\n"),
    "chunk-comment-of-200-kb": (["Transfer-Encoding: chunked"], b"5;" + b"x" * 200_000 + b"\r\nhello\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("name", FRAMING)
def test_a_body_of_unclear_length_is_refused(target: Target, name: str) -> None:
    lines, body = FRAMING[name]
    files = target.files()
    answer = talk(target, head(target, *lines) + body)
    if not is_cut(name, answer):
        refused(answer, 400, "malformed-request")
    wait_for("nothing to be left", lambda: target.files() == files, 30)


def test_a_length_and_chunks_at_once_are_never_read_as_two_requests(target: Target) -> None:
    """Whoever reads the length sees one request, whoever reads the chunks two: a proxy before us could be either."""
    hidden = f"GET /keys HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {KEY}\r\n\r\n".encode()
    body = b"0\r\n\r\n" + hidden
    raw = head(target, f"Content-Length: {len(body)}", "Transfer-Encoding: chunked") + body
    with line(target) as opened:
        opened.sendall(raw.replace(b"Connection: close\r\n", b""))
        received = b""
        with contextlib.suppress(ConnectionError):
            while piece := opened.recv(65536):
                received += piece
    assert received.count(b"HTTP/1.1 ") == 1
    assert b'"items"' not in received
    refused(Answer.of(received), 400, "malformed-request")


def test_a_length_over_the_limit_is_refused_before_a_byte_of_it_comes(target: Target) -> None:
    refused(talk(target, head(target, "Content-Length: 99999999999999")), 413, "too-large")


def test_a_body_that_is_shorter_than_it_says(target: Target) -> None:
    files = target.files()
    with line(target) as opened:
        opened.sendall(head(target, "Content-Length: 9000000") + ZIP + bytes(3 * 1024**2))
        wait_for("the upload to be on the disk", lambda: target.files() != files, 30)
        opened.shutdown(socket.SHUT_WR)
        hear(opened)
    wait_for("nothing to be left", lambda: target.files() == files, 30)


def test_a_body_that_is_longer_than_it_says_is_read_as_far_as_that(target: Target) -> None:
    files = target.files()
    refused(talk(target, head(target, "Content-Length: 50") + ZIP), 422, "invalid-archive")
    assert target.files() == files


def test_a_sender_that_waits_for_leave_and_gets_none(target: Target) -> None:
    answer = talk(target, head(target, "Content-Length: 99999999999999", "Expect: 100-continue"))
    refused(answer, 413, "too-large")


def test_a_sender_that_is_cut_off(target: Target) -> None:
    files = target.files()
    for size in (0, 60_000, 3 * 1024**2):
        with line(target) as opened:
            opened.sendall(head(target, "Content-Length: 9000000") + b"PK\x03\x04" + bytes(size))
            if size > 1024**2:  # before a megabyte there is nothing on the disk that could be left
                wait_for("the upload to be on the disk", lambda: target.files() != files, 30)
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    wait_for("nothing to be left", lambda: target.files() == files, 30)
    assert target.client.get("/livez").status_code == 200


def test_chunks_without_end_end_at_the_limit(target: Target) -> None:
    files, before = target.files(), target.forget_peak()
    piece = b"100000\r\n" + bytes(1024**2) + b"\r\n"
    limit, sent = 100 * 1024**2, 0
    with line(target) as opened:
        opened.sendall(head(target, "Transfer-Encoding: chunked"))
        with contextlib.suppress(ConnectionError):
            for _ in range(400):
                opened.sendall(piece)
                sent += 1024**2
        answer = hear(opened)
    if answer.body:  # the line may be cut before the answer is read: it was still sending
        refused(answer, 413, "too-large")
    assert sent < limit + 80 * 1024**2  # some of a refused body is read, so that its sender reads the answer
    wait_for("nothing to be left", lambda: target.files() == files, 30)
    assert target.peak_bytes() - before < 100 * 1024**2  # not held in memory


def test_tls_to_a_plain_port_ends(target: Target) -> None:
    context = ssl.create_default_context()
    with line(target) as opened, pytest.raises((ssl.SSLError, ConnectionError)):
        context.wrap_socket(opened, server_hostname="localhost")
