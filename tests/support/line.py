"""A line to a server that can be cut: a real TCP connection between a client and a service, to see what breaks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from urllib.parse import urlsplit


class Line:
    """Passes bytes on, until it is cut: then every connection is reset, and every new one at once."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._target = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._whole = True
        self._flows = threading.Event()
        self._flows.set()
        self._ends: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break every connection, and all that are tried from now on."""
        with self._lock:
            self._whole = False
            ends, self._ends = self._ends, set()
        for end in ends:
            _break(end)

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
                    for one, other in ((near, far), (far, near)):
                        threading.Thread(target=_pump, args=(one, other, self._flows), daemon=True).start()
                    continue
            for end in filter(None, (near, far)):
                _break(end)


def _pump(source: socket.socket, target: socket.socket, flows: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            flows.wait()
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
            end.close()


def _break(end: socket.socket) -> None:
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
