"""Real processes for `benchmarks/scale.py`: the broker as the app starts it, API processes, workers."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from app.embedded import Address
from app.listener import listen
from worker.broker import resolve_broker
from worker.service import Services, open_services
from worker.settings import WorkerSettings
from worker.supervise import Supervisor

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 120.0


def wait_for(what: str, true: Callable[[], object]) -> None:
    """Poll until it is so."""
    deadline = time.monotonic() + WAIT_S
    while not true():
        if time.monotonic() > deadline:
            raise SystemExit(f"waited {WAIT_S:.0f} s in vain for {what}")
        time.sleep(0.02)


class Process:
    """One process of the service that runs, and the log it writes."""

    def __init__(self, popen: subprocess.Popen[bytes], log: Path) -> None:
        self._popen, self._log, self.pid = popen, log, popen.pid

    def told(self, event: str) -> list[dict[str, Any]]:
        """The lines of its log about that event."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            with contextlib.suppress(ValueError):
                entry = json.loads(line)
                if isinstance(entry, dict) and entry.get("event") == event:
                    found.append(entry)
        return found

    def check(self) -> None:
        """End the benchmark with its log if it has ended."""
        if self._popen.poll() is not None:
            raise SystemExit(f"a process ended with {self._popen.returncode}:\n{self._log.read_text()[-4000:]}")


class Rig:
    """Starts what is asked for on one data folder; everything ends with its block.

    Args:
        data: The data folder.
        threads: OMP_NUM_THREADS of every process: with one, two workers have a core each.
    """

    def __init__(self, data: Path, *, threads: int = 1) -> None:
        self.data = data.absolute()
        self._logs = self.data.parent / f"{self.data.name}-logs"
        self._logs.mkdir(parents=True, exist_ok=True)
        self.threads = threads

    @contextlib.contextmanager
    def broker(self, *, emptied: bool = False) -> Iterator[str]:
        """The embedded Redis-protocol server; its URL. `emptied`: it has lost everything it knew."""
        self.data.mkdir(parents=True, exist_ok=True)
        broker = resolve_broker(self.data)
        assert broker.command is not None
        if emptied:
            for file in (self.data / "redis").glob("**/*"):
                if file.is_file():
                    file.unlink()
        with Supervisor([broker.command]) as supervisor:
            supervisor.wait_ready(WAIT_S)
            yield broker.address.url

    @contextlib.contextmanager
    def services(self, url: str) -> Iterator[Services]:
        """The worker floor in this process, as the API process has it."""
        services = open_services(WorkerSettings(data_dir=self.data, redis_url=url, node="bench", min_free_bytes=0))
        try:
            yield services
        finally:
            services.close()

    @contextlib.contextmanager
    def worker(self, url: str, **settings: str) -> Iterator[Process]:
        """One worker: its main process and the child that computes."""
        with self._running("worker", ["-m", "worker"], url, settings, None) as process:
            yield process

    @contextlib.contextmanager
    def api(self, url: str, **settings: str) -> Iterator[tuple[httpx.Client, Process, float]]:
        """One API process, ready: a client, the process, and how many seconds it took."""
        with listen("127.0.0.1", 0) as listener:
            address = Address.of(listener)
            argv = ["-m", "app", "--listen-fd", str(listener.fileno())]
            settings = {"NPT_ROLE": "api", "NPT_PORT": str(address.port), **settings}
            started = time.monotonic()
            with self._running("api", argv, url, settings, listener) as process:

                def ready() -> bool:
                    process.check()
                    return address.ask("/readyz")[0] == 200

                wait_for("the API to be ready", ready)
                took = time.monotonic() - started
                with httpx.Client(base_url=address.url, timeout=60) as client:
                    yield client, process, took

    @contextlib.contextmanager
    def _running(
        self, name: str, argv: list[str], url: str, settings: dict[str, str], listener: socket.socket | None
    ) -> Iterator[Process]:
        env = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
        env |= {"NPT_DATA_DIR": str(self.data), "NPT_REDIS_URL": url, "NPT_BACKBONE": "demo", "NPT_LOG_JSON": "true"}
        env |= {"NPT_MIN_FREE_BYTES": "0", "OMP_NUM_THREADS": str(self.threads), **settings}
        log = self._logs / f"{name}-{time.monotonic_ns()}.log"
        with log.open("wb") as out:
            popen = subprocess.Popen(
                [sys.executable, *argv],
                cwd=ROOT,
                env=env,
                stdout=out,
                stderr=out,
                start_new_session=True,
                pass_fds=[listener.fileno()] if listener is not None else [],
            )
        try:
            yield Process(popen, log)
        finally:
            popen.send_signal(signal.SIGTERM)
            popen.wait(60)
