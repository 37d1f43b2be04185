"""A Redis that speaks TLS alone and knows one user, with certificates made for the test.

`redis-server` or `valkey-server` of the PATH where it was built with TLS, as those of distributions are. The server in
the wheel is not: in front of it stands a small one that ends TLS and passes bytes on.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import redis

from tests.support.certificates import certificates
from tests.support.ports import free_port
from tests.support.redis_server import RedisServer
from tests.support.service import wait_for

USER, PASSWORD = "npt", "a-very-secret-word"
RIGHTS = ("~npt:*", "~_kombu*", "~unacked*", "resetchannels", "+@all", "-@dangerous", "+info")
"""What docs/deploy.md says that the user needs."""


@dataclass
class TlsRedis:
    """Where it is, and the CA that signed its certificate."""

    port: int
    ca: Path
    native: bool

    def url(self, *, password: str = PASSWORD, ca: bool = True, scheme: str = "rediss") -> str:
        trust = f"?ssl_ca_certs={self.ca}" if ca else ""
        return f"{scheme}://{USER}:{password}@127.0.0.1:{self.port}/0{trust}"


@contextlib.contextmanager
def tls_redis(folder: Path) -> Iterator[TlsRedis]:
    """Running, and empty."""
    ca, cert, key = certificates(folder)
    server = _with_tls()
    if server is not None:
        with _native(server, folder, ca, cert, key) as port:
            yield TlsRedis(port, ca, native=True)
    else:
        with RedisServer(extra=("--user", f"{USER} on >{PASSWORD} {' '.join(RIGHTS)}")) as plain:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(cert, key)
            with _ending_tls(context, plain.socket) as port:
                yield TlsRedis(port, ca, native=False)


def _with_tls() -> str | None:
    """A server of the PATH that was built with TLS."""
    for name in ("redis-server", "valkey-server"):
        found = shutil.which(name)
        if found is not None:
            libraries = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
            if "libssl" in libraries:
                return found
    return None


@contextlib.contextmanager
def _native(server: str, folder: Path, ca: Path, cert: Path, key: Path) -> Iterator[int]:
    port = free_port()
    lines = [
        "port 0",
        f"tls-port {port}",
        f"tls-cert-file {cert}",
        f"tls-key-file {key}",
        f"tls-ca-cert-file {ca}",
        "tls-auth-clients no",
        'save ""',
        "appendonly no",
        f"dir {folder}",
        "logfile redis.log",
        "user default off",
        f"user {USER} on >{PASSWORD} {' '.join(RIGHTS)}",
    ]
    config = folder / "redis.conf"
    config.write_text("\n".join(lines) + "\n")
    process = subprocess.Popen([server, str(config)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def answers() -> bool:
            assert process.poll() is None, (folder / "redis.log").read_text()
            with (
                contextlib.suppress(redis.ConnectionError, redis.TimeoutError),
                redis.Redis.from_url(TlsRedis(port, ca, native=True).url()) as client,
            ):
                return bool(client.ping())
            return False

        wait_for("the TLS server to answer", answers, 30)
        yield port
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def _ending_tls(context: ssl.SSLContext, target: Path) -> Iterator[int]:
    listener = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(near,), daemon=True).start()

    def serve(near: socket.socket) -> None:
        with contextlib.suppress(OSError), context.wrap_socket(near, server_side=True) as inner:
            far = socket.socket(socket.AF_UNIX)
            far.connect(str(target))
            with far:
                pump = threading.Thread(target=_pump, args=(far, inner), daemon=True)
                pump.start()
                _pump(inner, far)
                pump.join(5)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
    for end in (source, target):
        with contextlib.suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)
