"""A line to a server that fails as a test says: a real TCP connection between a client and a service.

It can be cut as a whole, can go silent, and can break a connection after so many bytes of a request or of an answer.
"""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Break:
    """One connection fails once so many more bytes have come this way.

    Attributes:
        answer: Of answers; else of requests.
        after: Bytes that still pass.
        silent: Nothing more comes of it and it stays open; else it is reset.
    """

    answer: bool
    after: int
    silent: bool = False


class Line:
    """Passes bytes on."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._whole = True
        self._flows = threading.Event()
        self._flows.set()
        self._ends: set[socket.socket] = set()
        self._breaks: list[Break] = []
        self._lock = threading.Lock()
        self.broken = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def expect(self, *breaks: Break) -> None:
        """What breaks next, in this order; `broken` counts what did."""
        with self._lock:
            self._breaks = list(breaks)

    def cut(self) -> None:
        """Reset every connection, and all that are tried from now on."""
        with self._lock:
            self._whole = False
            ends, self._ends = self._ends, set()
        for end in ends:
            _reset(end)

    def hold(self) -> None:
        """Keep what is sent, as a server does that has stopped: nobody is told anything."""
        self._flows.clear()

    def mend(self) -> None:
        """Let new connections through, and what was kept."""
        self._whole = True
        self._flows.set()

    def close(self) -> None:
        self._listener.close()
        self.cut()
        self._flows.set()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(self._target) if self._whole else None
            except OSError:
                far = None
            with self._lock:
                if far is not None and self._whole:
                    self._ends |= {near, far}
                    over = threading.Event()
                    for way in ((near, far, False, over), (far, near, True, over)):
                        threading.Thread(target=self._pump, args=way, daemon=True).start()
                    continue
            for end in filter(None, (near, far)):
                _reset(end)

    def _pump(self, source: socket.socket, target: socket.socket, answer: bool, over: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passing, broken = self._judge(len(data), answer)
                self._flows.wait()
                target.sendall(data[:passing])
                if broken is not None:
                    if broken.silent:
                        over.wait()  # the other end hangs up
                    break
        over.set()
        for end in (source, target):
            _reset(end)

    def _judge(self, size: int, answer: bool) -> tuple[int, Break | None]:
        """How many of so many bytes pass, and what breaks there."""
        with self._lock:
            if not self._breaks or self._breaks[0].answer is not answer:
                return size, None
            passing = min(size, self._breaks[0].after)
            self._breaks[0].after -= passing
            if passing == size:
                return size, None
            self.broken += 1
            return passing, self._breaks.pop(0)


def _reset(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextlib.contextmanager
def running_line(url: str) -> Iterator[Line]:
    """A line to the server at `url`; clients use the line's own `url`."""
    line = Line(url)
    try:
        yield line
    finally:
        line.close()
