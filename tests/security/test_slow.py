"""Who is slow, or silent, is not waited for: each clock of the server, and how long it took here."""

from __future__ import annotations

import contextlib
import select
import socket
import sys
import time
from urllib.parse import urlsplit

import pytest

from tests.security.by_hand import hear, hear_until, line, refused
from tests.security.clocks import AGAIN, CLOCKS, EVERY_S, GET, MANY, MINUTE, SENDERS, UNREAD, UNUSED, Slow
from tests.security.conftest import ANSWER_S, Target
from tests.security.record import LONG, Ended, Skipped
from tests.support.service import wait_for

SLOW = [*SENDERS, pytest.param(MINUTE, marks=pytest.mark.skipif(not LONG, reason="a minute: make hostile"))]


def ended(what: str, began: float) -> None:
    """Write down how long it took."""
    Ended(what, CLOCKS[what], time.monotonic() - began).write()


def trickle(opened: socket.socket, piece: bytes) -> None:
    """Send it again and again until the other side says something, or hangs up."""
    opened.settimeout(EVERY_S)
    with contextlib.suppress(ConnectionError):
        for _ in range(int(ANSWER_S / EVERY_S)):
            opened.sendall(piece)
            with contextlib.suppress(TimeoutError):
                assert opened.recv(1, socket.MSG_PEEK) in (b"H", b"")
                break
    opened.settimeout(ANSWER_S)


@pytest.mark.parametrize("slow", SLOW, ids=lambda slow: slow.what.replace(" ", "-"))
def test_who_sends_slowly_is_not_waited_for(target: Target, slow: Slow) -> None:
    files = target.files()
    with line(target) as opened:
        opened.sendall(slow.first(target))
        began = time.monotonic()
        if slow.again:
            trickle(opened, slow.again)
        refused(hear(opened), 408, "request-timeout")
        ended(slow.what, began)
    wait_for("nothing to be left", lambda: target.files() == files, 30)


def test_the_head_of_a_second_request_is_not_waited_for_either(target: Target) -> None:
    with line(target) as opened:
        opened.sendall(GET + b"\r\n")
        assert hear_until(opened, b"}").startswith(b"HTTP/1.1 200")
        opened.sendall(GET[:7])
        began = time.monotonic()
        refused(hear(opened), 408, "request-timeout")
        ended(AGAIN, began)


def test_a_connection_that_asks_nothing_more_is_hung_up_on(target: Target) -> None:
    with line(target) as opened:
        opened.sendall(GET + b"\r\n")
        assert hear_until(opened, b"}").startswith(b"HTTP/1.1 200")
        began = time.monotonic()
        assert opened.recv(1) == b""
        ended(UNUSED, began)


def test_an_answer_that_nobody_reads_is_not_kept(target: Target) -> None:
    """Asked for without a key, again and again: more than the system takes off the server's hands."""
    if sys.platform != "linux":
        Skipped(UNREAD, CLOCKS[UNREAD], why := "only Linux tells what was taken").write()
        pytest.skip(why)
    parts = urlsplit(target.service.url)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect((parts.hostname or "", parts.port or 0))
        opened.sendall(b"GET /web/samples/digits.zip HTTP/1.1\r\nHost: localhost\r\n\r\n" * 100)
        began = time.monotonic()
        hung_up = select.poll()
        hung_up.register(opened, select.POLLHUP | select.POLLERR)
        assert hung_up.poll(ANSWER_S * 1000), "nobody has hung up"
        ended(UNREAD, began)


def test_many_silent_connections_keep_nobody_out(target: Target) -> None:
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(line(target)) for _ in range(300)]
        began = time.monotonic()
        assert target.client.get("/livez").status_code == 200
        for one in opened:
            assert hear(one).status == 408
        ended(MANY, began)


def test_a_busy_connection_is_left_alone(target: Target) -> None:
    """Longer than a head is waited for, a request at a time."""
    with line(target) as opened:
        for _ in range(40):
            opened.sendall(GET + b"\r\n")
            assert hear_until(opened, b"}").startswith(b"HTTP/1.1 200")
            with contextlib.suppress(TimeoutError):
                opened.settimeout(0.1)
                assert opened.recv(1) != b"", "it was hung up on"
            opened.settimeout(ANSWER_S)
