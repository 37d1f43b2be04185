"""A real embedded service for tests: `python -m app` in a folder of its own, on a free port, spoken to over HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

ROOT = Path(__file__).resolve().parents[2]
TERMINAL = {"succeeded", "failed", "cancelled"}


def wait_for(what: str, probe: Callable[[], Any], timeout_s: float = 90.0, every_s: float = 0.05) -> Any:
    """Poll `probe` until it returns something true; fail with `what` otherwise."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if value := probe():
            return value
        time.sleep(every_s)
    raise AssertionError(f"waited {timeout_s:.0f} s for: {what}")


@dataclass
class Service:
    """One running embedded service."""

    process: subprocess.Popen[bytes]
    url: str
    data: Path
    log: Path
    client: httpx.Client

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.client.get(f"/jobs/{job_id}")
        assert answer.status_code == 200, answer.text
        return answer.json()

    def wait_for_status(self, job_id: str, *status: str, timeout_s: float = 120.0) -> dict[str, Any]:
        def probe() -> dict[str, Any] | None:
            job = self.job(job_id)
            if job["status"] in TERMINAL and job["status"] not in status:
                raise AssertionError(f"job is {job['status']}, not {status}: {job['error']}")
            return job if job["status"] in status else None

        return wait_for(f"job {job_id} to be {status}; log: {self.log}", probe, timeout_s)

    def tune(self, archive: bytes, config: Mapping[str, Any] | None = None, **headers: str) -> httpx.Response:
        data = {"config": json.dumps(dict(config))} if config is not None else {}
        files = {"dataset": ("pictures.zip", archive, "application/zip")}
        return self.client.post("/tune", files=files, data=data, headers=headers)

    def processes(self) -> dict[int, str]:
        """Every process of the service: pid -> command line."""
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return {p.pid: " ".join(p.cmdline()) for p in [root, *root.children(recursive=True)]}
        return {}


@contextlib.contextmanager
def running_service(folder: Path, **settings: str) -> Iterator[Service]:
    """Start the service on `folder`, wait until it is ready, stop it with SIGTERM and check that nothing is left."""
    log = folder.parent / f"{folder.name}.log"
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("NPT_")}
    env = inherited | {
        "NPT_DATA_DIR": str(folder),
        "NPT_PORT": "0",
        "NPT_LEASE_TTL_S": "3",
        "OMP_NUM_THREADS": "1",
    }
    env |= settings
    address = folder / "run" / "service.json"
    address.unlink(missing_ok=True)
    with log.open("ab") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "app"], cwd=ROOT, env=env, stdout=out, stderr=out, start_new_session=True
        )
    try:

        def ready() -> str | None:
            assert process.poll() is None, f"the service ended with {process.returncode}:\n{log.read_text()[-4000:]}"
            if not address.exists():
                return None
            url = json.loads(address.read_text())["url"]
            with contextlib.suppress(httpx.TransportError):
                return url if httpx.get(f"{url}/readyz", timeout=5).status_code == 200 else None
            return None

        url = wait_for(f"the service to be ready, log {log}", ready, 120)
        with httpx.Client(base_url=url, timeout=60) as client:
            service = Service(process, url, folder, log, client)
            yield service
            members = service.processes()
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    left = {pid: command for pid, command in members.items() if psutil.pid_exists(pid) and _alive(pid)}
    assert not left, f"processes left behind: {left}"


def _alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
