"""A line to a server that breaks where a test says: after so many bytes of a request, or of an answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit


@dataclass
class Break:
    """The connection is reset once so many more bytes have come this way.

    Attributes:
        answer: Of answers; else of requests.
        after: Bytes that still pass.
    """

    answer: bool
    after: int


class BrittleLine:
    """Passes bytes on, and breaks as often as it was told to."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._lock = threading.Lock()
        self._breaks: list[Break] = []
        self.broken = 0
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def expect(self, *breaks: Break) -> None:
        """What breaks next, in this order."""
        with self._lock:
            self._breaks = list(breaks)

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
                far = socket.create_connection(self._target)
            except OSError:
                return
            for source, target, answer in ((near, far, False), (far, near, True)):
                threading.Thread(target=self._pump, args=(source, target, answer), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, answer: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                passing = self._passing(len(data), answer)
                target.sendall(data[:passing])
                if passing < len(data):
                    break
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
                end.close()

    def _passing(self, size: int, answer: bool) -> int:
        with self._lock:
            if not self._breaks or self._breaks[0].answer is not answer:
                return size
            passing = min(size, self._breaks[0].after)
            self._breaks[0].after -= passing
            if passing < size:
                self._breaks.pop(0)
                self.broken += 1
            return passing


@contextlib.contextmanager
def brittle_line(url: str) -> Iterator[BrittleLine]:
    """A line to the server at `url`; clients use the line's own `url`."""
    line = BrittleLine(url)
    try:
        yield line
    finally:
        line.close()
