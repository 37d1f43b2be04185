"""An API and a worker as two machines run them: two processes, two folders, one Redis, whatever store they are told."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from tests.support.service import ROOT, Service, wait_for


@dataclass
class Machine:
    """One process of the service and its folder."""

    process: subprocess.Popen[bytes]
    folder: Path
    log: Path

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace")

    def kill(self) -> None:
        """SIGKILL to it and all that it started, as in a power cut."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.kill()
        self.process.wait(20)
        for child in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(family, timeout=20)


def start(name: str, folder: Path, settings: Mapping[str, str], *argv: str, fds: tuple[int, ...] = ()) -> Machine:
    """Start `python -m ...` on a folder of its own."""
    log = folder.parent / f"{folder.name}.log"
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
    env = inherited | {
        "NPT_DATA_DIR": str(folder),
        "NPT_NODE": name,
        "NPT_LEASE_TTL_S": "3",
        "NPT_MIN_FREE_BYTES": "0",
        "NPT_LOG_JSON": "true",
        "OMP_NUM_THREADS": "1",
    }
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", *argv],
            cwd=ROOT,
            env=env | dict(settings),
            stdout=out,
            stderr=out,
            start_new_session=True,
            pass_fds=fds,
        )
    return Machine(process, folder, log)


@contextlib.contextmanager
def stopping(machine: Machine) -> Iterator[Machine]:
    """Stop it with SIGTERM in the end, and see that it goes."""
    try:
        yield machine
    finally:
        if machine.process.poll() is None:
            machine.process.send_signal(signal.SIGTERM)
        try:
            machine.process.wait(60)
        finally:
            if machine.process.poll() is None:
                machine.kill()


@contextlib.contextmanager
def worker(folder: Path, settings: Mapping[str, str], name: str = "worker") -> Iterator[Machine]:
    """A worker, from its start on."""
    with stopping(start(name, folder, settings, "worker")) as machine:
        yield machine


@contextlib.contextmanager
def api(folder: Path, settings: Mapping[str, str], name: str = "api") -> Iterator[Service]:
    """An API process that is ready: Redis answers, the store too, a worker is seen, the backbone is loaded."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        argv = ("app", "--listen-fd", str(listener.fileno()))
        machine = start(name, folder, {"NPT_ROLE": "api", **settings}, *argv, fds=(listener.fileno(),))
    with stopping(machine), httpx.Client(base_url=url, timeout=60) as client:

        def ready() -> bool:
            assert machine.process.poll() is None, f"it ended with {machine.process.returncode}:\n{machine.text()}"
            with contextlib.suppress(httpx.TransportError):
                return client.get("/readyz").status_code == 200
            return False

        wait_for(f"the API to be ready, log {machine.log}", ready, 120)
        yield Service(machine.process, url, folder, machine.log, client)
