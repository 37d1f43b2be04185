"""The watches over connections that never ask for anything, or never take their answer, on a real uvicorn."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import socket
import ssl
import sys
import threading
import time
import weakref
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import uvicorn
from structlog.testing import capture_logs

from app.pace import Pace
from app.server import watched as server_of
from app.settings import AppSettings
from app.watches import HeadWatch, ReaderWatch, Watch, taken_bytes
from app.wire import Wire
from tests.support.api import coloured_zip, running_api
from tests.support.certificates import certificates
from tests.support.nginx import documented, needs_nginx, running_nginx
from tests.support.ports import free_port
from tests.support.service import ROOT, wait_for

GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@dataclass
class Watched:
    """A server of one answer, and how often its connections were looked at."""

    server: uvicorn.Server
    looks: list[None] = field(default_factory=list)

    def connect(self) -> socket.socket:
        return socket.create_connection(self.server.servers[0].sockets[0].getsockname(), timeout=60)

    def connections(self) -> tuple[Any, ...]:
        return tuple(self.server.server_state.connections)

    def wait_for_looks(self, more: int) -> None:
        until = len(self.looks) + more
        wait_for("looks at the connections", lambda: len(self.looks) >= until)


async def _answer(scope: Any, receive: Any, send: Any) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
    await send({"type": "http.response.body", "body": b"ok"})


LARGE_BYTES = 16 * 1024**2
"""More than a system keeps of a connection for a reader that takes nothing."""


async def _large(scope: Any, receive: Any, send: Any) -> None:
    """In pieces, or at once where the path is /whole."""
    pieces = 1 if scope["path"] == "/whole" else 16
    length = (b"content-length", b"%d" % LARGE_BYTES)
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    for number in range(pieces):
        body = bytes(LARGE_BYTES // pieces)
        await send({"type": "http.response.body", "body": body, "more_body": number < pieces - 1})


@contextlib.contextmanager
def watched(
    make: Callable[[Collection[Any]], Watch[Any]], answer: Any = _answer, more: tuple[object, ...] = ()
) -> Iterator[Watched]:
    """A server whose watch also looks at `more`, which are no connections."""

    class All(Collection[Any]):
        def __iter__(self) -> Iterator[Any]:
            return iter([*more, *server.server_state.connections])

        def __len__(self) -> int:
            return len(list(iter(self)))

        def __contains__(self, one: object) -> bool:
            return one in list(iter(self))

    config = configured(answer)
    server = uvicorn.Server(config)
    told, watch = Watched(server), make(All())

    async def look() -> None:
        await watch.look()
        told.looks.append(None)

    config.callback_notify, config.timeout_notify = look, 0
    with serving(server):
        yield told


def configured(answer: Any) -> uvicorn.Config:
    """As the service has it, on a free port."""
    return uvicorn.Config(answer, host="127.0.0.1", port=0, log_config=None, http=Wire, lifespan="off", ws="none")


@contextlib.contextmanager
def serving(server: uvicorn.Server) -> Iterator[None]:
    """In a thread, until the block ends."""
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        wait_for("the server", lambda: server.started)
        yield
    finally:
        server.should_exit = True
        thread.join(60)
    assert not thread.is_alive()


def test_a_connection_that_is_gone_is_held_by_nothing() -> None:
    with watched(lambda all: HeadWatch(all, 3600)) as told:
        with told.connect() as opened:
            opened.sendall(GET)
            received = b""
            while not received.endswith(b"ok"):
                received += opened.recv(65536)
            opened.sendall(b"GET /")
            gone = weakref.ref(told.connections()[0])
            wait_for("the beginning of a second head", lambda: _has_begun(gone()))
            told.wait_for_looks(2)
            assert gone() is not None
        wait_for("the connection to end", lambda: not told.connections())
        wait_for("the connection to be forgotten", lambda: gc.collect() >= 0 and gone() is None)


def _has_begun(connection: Any) -> bool:
    return connection.cycle.response_complete and connection.timeout_keep_alive_task is None


def test_one_that_cannot_be_watched_ends_neither_the_server_nor_the_watch() -> None:
    with capture_logs() as logs, watched(lambda all: HeadWatch(all, 0), more=(object(), object())) as told:
        told.wait_for_looks(3)
        with told.connect() as opened:  # silent
            assert opened.recv(12) == b"HTTP/1.1 408"
    faults = [line for line in logs if line["event"] == "a connection cannot be watched"]
    assert len(faults) == 1
    assert faults[0]["log_level"] == "error"


def test_a_stream_that_nothing_is_written_to_is_no_missing_head(make_settings: Callable[..., AppSettings]) -> None:
    """It stays open for longer than a head is waited for, and tells the end of its job."""
    with running_api(make_settings(backbone="demo", upload_idle_s=1)) as api:
        files = {"dataset": ("pictures.zip", coloured_zip(), "application/zip")}
        job = api.client.post("/tune", files=files).json()["id"]  # waits: there is no worker
        parts = urlsplit(api.url)
        address = (parts.hostname or "", parts.port or 0)
        with socket.create_connection(address, timeout=60) as stream:
            stream.sendall(f"GET /jobs/{job}/events HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            received = _until(stream, b"event: snapshot")
            for _ in range(2):
                with socket.create_connection(address, timeout=60) as silent:  # begins after it, ends before it
                    assert silent.recv(12) == b"HTTP/1.1 408"
            assert api.client.post(f"/jobs/{job}/cancel").status_code == 202
            received += _until(stream, b"event: end")
    assert received.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" not in received


def _until(opened: socket.socket, word: bytes) -> bytes:
    received = b""
    while word not in received:
        piece = opened.recv(65536)
        assert piece, f"hung up on before {word!r} came, after {received!r}"
        received += piece
    return received


needs_tcp_info = pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells what was taken")


@contextlib.contextmanager
def asking(told: Watched, path: str) -> Iterator[socket.socket]:
    """A connection that has asked for a large answer and has room for little of it."""
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        opened.settimeout(60)
        opened.connect(told.server.servers[0].sockets[0].getsockname())
        opened.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        yield opened


def read_all(opened: socket.socket, *, at_once: int = 1024**2, pause_s: float = 0, for_s: float = 0) -> int:
    """Read so slowly for so long, then as fast as it goes; how many bytes came."""
    total, until = 0, time.monotonic() + for_s
    while piece := opened.recv(at_once):
        total += len(piece)
        if time.monotonic() < until:
            threading.Event().wait(pause_s)
        else:
            at_once = 1024**2
    return total


@needs_tcp_info
@pytest.mark.parametrize("path", ["/pieces", "/whole"])
@pytest.mark.parametrize("bytes_per_s", [0, 1000])
def test_who_takes_nothing_of_an_answer_is_hung_up_on(path: str, bytes_per_s: int) -> None:
    with watched(lambda all: ReaderWatch(all, Pace(0.5, bytes_per_s)), _large) as told, asking(told, path) as opened:
        wait_for("the connection", told.connections)
        wait_for("it to be ended", lambda: not told.connections())
        with pytest.raises(ConnectionResetError):  # nothing of it is kept by the system either
            read_all(opened)


@needs_tcp_info
def test_who_takes_too_little_of_an_answer_is_hung_up_on_too() -> None:
    with (
        watched(lambda all: ReaderWatch(all, Pace(0.5, 1024**3)), _large) as told,
        asking(told, "/whole") as opened,
        pytest.raises(ConnectionResetError),
    ):
        read_all(opened, at_once=4096, pause_s=0.05, for_s=60)


@needs_tcp_info
@pytest.mark.parametrize("path", ["/pieces", "/whole"])
@pytest.mark.parametrize("bytes_per_s", [0, 1000])
def test_who_takes_an_answer_slowly_gets_all_of_it(path: str, bytes_per_s: int) -> None:
    """For three times as long as silence is allowed."""
    with watched(lambda all: ReaderWatch(all, Pace(2, bytes_per_s)), _large) as told, asking(told, path) as opened:
        assert read_all(opened, at_once=65536, pause_s=0.05, for_s=6) > LARGE_BYTES


@needs_tcp_info
def test_who_takes_an_answer_in_lumps_gets_all_of_it(make_settings: Callable[..., AppSettings]) -> None:
    """As a proxy does for a slow reader: nothing for longer than a sender may be silent, then megabytes at once."""
    server = server_of(configured(_large), make_settings(upload_idle_s=0.5))
    told, pauses = Watched(server), 3
    with serving(server), asking(told, "/whole") as opened:
        total = 0
        for _ in range(pauses):
            threading.Event().wait(2.5)  # two looks at least, a second apart
            total += sum(len(opened.recv(65536)) for _ in range(32))
        assert total + read_all(opened) > LARGE_BYTES


@needs_tcp_info
@needs_nginx
def test_who_takes_an_answer_slowly_from_the_documented_proxy_gets_all_of_it(
    make_settings: Callable[..., AppSettings], tmp_path: Path
) -> None:
    """It takes more once about a third of its buffer has gone: later than a sender may be silent."""
    server = server_of(configured(_large), make_settings(upload_idle_s=0.5))
    ca, cert, key = certificates(tmp_path / "certificates")
    port, trust = free_port(), ssl.create_default_context(cafile=ca)
    with contextlib.ExitStack() as stack:
        stack.enter_context(serving(server))
        behind = server.servers[0].sockets[0].getsockname()[1]
        here = {
            "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
            "/etc/ssl/classifier/fullchain.pem": str(cert),
            "/etc/ssl/classifier/privkey.pem": str(key),
            "http://127.0.0.1:8000": f"http://127.0.0.1:{behind}",
        }
        stack.enter_context(running_nginx(tmp_path, documented(here), port))
        plain = stack.enter_context(socket.socket())
        plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        plain.settimeout(60)
        plain.connect(("127.0.0.1", port))
        opened = stack.enter_context(trust.wrap_socket(plain, server_hostname="localhost"))
        opened.sendall(b"GET /whole HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        assert read_all(opened, at_once=16384, pause_s=0.1, for_s=6) > LARGE_BYTES


@pytest.mark.parametrize("page", ["docs/deploy.md", "docker/nginx.conf"])
def test_the_proxies_wait_for_a_reader_no_shorter(page: str) -> None:
    """nginx's own 60 s end a reader of 20 KiB a second."""
    (seconds,) = re.findall(r"^ *send_timeout (\d+)s;", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert float(seconds) >= AppSettings.model_fields["answer_idle_s"].default


@needs_tcp_info
def test_the_patience_with_a_reader_is_a_setting(make_settings: Callable[..., AppSettings]) -> None:
    server = server_of(configured(_large), make_settings(upload_idle_s=3600, answer_idle_s=0.5))
    told = Watched(server)
    with serving(server), asking(told, "/whole"):
        wait_for("the connection", told.connections)
        wait_for("it to be ended", lambda: not told.connections())


def test_where_the_system_does_not_tell_nobody_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.watches.sys.platform", "plan9")
    with watched(lambda all: ReaderWatch(all, Pace(0, 0)), _large) as told, asking(told, "/whole") as opened:
        wait_for("the connection", told.connections)
        told.wait_for_looks(3)
        assert read_all(opened) > LARGE_BYTES


@dataclass(eq=False)
class Waiting:
    """A connection whose answer waits, of which nothing has been acknowledged: on a real socket that has asked."""

    opened: socket.socket
    aborted: int = 0

    @property
    def transport(self) -> Waiting:
        return self

    def get_write_buffer_size(self) -> int:
        return LARGE_BYTES

    def get_extra_info(self, name: str) -> object:
        return {"socket": self.opened}[name]

    def abort(self) -> None:
        self.aborted += 1


@contextlib.contextmanager
def a_pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A client's end and the server's."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as near,
        server.accept()[0] as far,
    ):
        yield near, far


@needs_tcp_info
def test_nothing_taken_is_told_from_a_system_that_does_not_tell() -> None:
    with a_pair() as (near, far):
        one = Waiting(far)
        assert taken_bytes(one) is None  # nothing was asked
        near.sendall(GET)
        assert len(far.recv(1000)) == len(GET)
        assert taken_bytes(one) == 0
        far.sendall(b"ok")
        assert near.recv(2) == b"ok"
        wait_for("it to be acknowledged", lambda: taken_bytes(one) == 2)


@needs_tcp_info
@pytest.mark.parametrize("bytes_per_s", [0, 1000])
def test_who_never_takes_a_byte_is_hung_up_on(bytes_per_s: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its window is shut from its first packet on, so not even the head of the answer is acknowledged."""
    now = [0.0]
    monkeypatch.setattr("app.watches.time", SimpleNamespace(monotonic=lambda: now[0]))
    with a_pair() as (near, far):
        near.sendall(GET)
        assert len(far.recv(1000)) == len(GET)
        one = Waiting(far)
        watch = ReaderWatch([one], Pace(30, bytes_per_s))
        for now[0] in (0.0, 29.0):
            asyncio.run(watch.look())
            assert not one.aborted
        now[0] = 31.0
        asyncio.run(watch.look())
        assert one.aborted == 1
