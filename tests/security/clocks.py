"""Everything that a sender may be slow at, and the clock that ends it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from tests.security.by_hand import head
from tests.security.conftest import Target
from tests.security.corpus.case import PREDICT

IDLE = "`NPT_UPLOAD_IDLE_S`, 2 s here"
HEAD = f"{IDLE}, looked at every second"
BEHIND = f"{IDLE}, of falling behind `NPT_UPLOAD_MIN_BYTES_PER_S`"
EVERY_S = 0.2


@dataclass(frozen=True)
class Slow:
    """What a sender is slow at.

    Attributes:
        what: In words.
        clock: What ends it.
        first: Sent at once.
        again: Sent every `EVERY_S` from then on; nothing: silence.
    """

    what: str
    clock: str
    first: Callable[[Target], bytes]
    again: bytes = b""


GET = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n"
LENGTH = "Content-Length: 100000"
PART = b'--b\r\nContent-Disposition: form-data; name="file"; filename="x"\r\n\r\nP'
SMALL = "PUT /aliases/slow HTTP/1.1"


def _form(target: Target) -> bytes:
    return head(target, LENGTH, kind="multipart/form-data; boundary=b") + PART


def _picture(target: Target) -> bytes:
    return head(target, LENGTH, first=f"POST {PREDICT} HTTP/1.1", kind="image/png") + b"\x89"


def _small(target: Target) -> bytes:
    return head(target, "Content-Length: 60000", first=SMALL, kind="application/json") + b"{"


SENDERS = (
    Slow("a connection that sends nothing", HEAD, lambda _: b""),
    Slow("half a first line", HEAD, lambda _: GET[:12]),
    Slow("half a header", HEAD, lambda _: GET + b"X: "),
    Slow("a head that comes a line at a time", HEAD, lambda _: GET, b"X: y\r\n"),
    Slow("an upload that falls silent", IDLE, lambda target: head(target, LENGTH) + b"P"),
    Slow("an upload that comes a byte at a time", BEHIND, lambda target: head(target, LENGTH) + b"P", b"K"),
    Slow(
        "an upload that comes in chunks of a byte",
        BEHIND,
        lambda target: head(target, "Transfer-Encoding: chunked") + b"1\r\nP\r\n",
        b"1\r\nK\r\n",
    ),
    Slow("a form that comes a byte at a time", BEHIND, _form, b"K"),
    Slow("a picture that comes a byte at a time", BEHIND, _picture, b"P"),
    Slow("a JSON body that falls silent", "10 s without a byte", _small),
)
MINUTE = Slow("a JSON body that comes a byte at a time", "60 s for all of it", _small, b" ")
"""A minute, which not every run of the tests waits for."""

MANY = "300 connections that send nothing, the last of them"
AGAIN = "the head of a second request"
UNUSED = "no request more"
UNREAD = "an answer that is not read"

CLOCKS: Mapping[str, str] = {
    **{slow.what: slow.clock for slow in (*SENDERS, MINUTE)},
    MANY: HEAD,
    AGAIN: HEAD,
    UNREAD: "`NPT_ANSWER_IDLE_S`, 2 s here, looked at every second",
    UNUSED: "5 s after the last answer",
}
"""What is slow, and what ends it."""
