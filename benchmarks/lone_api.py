"""The API alone, as a process of its own over HTTP, on a broker and a data folder made for it; for benchmarks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
import redis

from tests.support.ports import free_port
from worker.broker import find_server

ROOT = Path(__file__).resolve().parents[1]
START_S = 120.0


@dataclass(frozen=True)
class LoneApi:
    """A running API.

    Args:
        process: The API's own process.
        url: Where it listens.
        data: Its data folder.
        ready_s: Seconds from the start of the process to the first 200 of `/readyz`.
    """

    process: subprocess.Popen[bytes]
    url: str
    data: Path
    ready_s: float


def clean_environment(**settings: str) -> dict[str, str]:
    """The environment without the operator's own NPT_* settings, and with these."""
    return {key: value for key, value in os.environ.items() if not key.startswith("NPT_")} | settings


@contextlib.contextmanager
def running_broker(folder: Path) -> Iterator[str]:
    """A Redis-protocol server with nothing on disk; its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    sock = folder / "redis.sock"
    argv = [str(find_server()), "--port", "0", "--unixsocket", str(sock), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with redis.Redis(unix_socket_path=str(sock)) as client:
            began = time.monotonic()
            while True:
                with contextlib.suppress(redis.ConnectionError):
                    client.ping()
                    break
                if time.monotonic() - began > START_S:
                    raise SystemExit("the broker does not answer")
                time.sleep(0.01)
        yield f"unix://{sock}"
    finally:
        process.terminate()
        process.wait(20)


@contextlib.contextmanager
def running_api(folder: Path, broker: str, settings: Mapping[str, str] | None = None) -> Iterator[LoneApi]:
    """Start it on `folder`, wait for `/readyz`, and end it with SIGTERM."""
    port = free_port()
    url, log = f"http://127.0.0.1:{port}", folder / "api.log"
    folder.mkdir(parents=True, exist_ok=True)
    own = {"NPT_ROLE": "api", "NPT_PORT": str(port), "NPT_DATA_DIR": str(folder / "data"), "NPT_REDIS_URL": broker}
    env = clean_environment(**own, **(settings or {}))
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-m", "app"], cwd=ROOT, env=env, stdout=out, stderr=out)
    try:
        with httpx.Client(base_url=url, timeout=30) as client:
            while not is_ready(client):
                if process.poll() is not None or time.perf_counter() - began > START_S:
                    raise SystemExit(f"the API did not become ready:\n{log.read_text()[-4000:]}")
                time.sleep(0.02)
        yield LoneApi(process, url, folder / "data", time.perf_counter() - began)
    finally:
        process.terminate()
        process.wait(60)


def is_ready(client: httpx.Client) -> bool:
    """Whether `/readyz` says 200."""
    try:
        return client.get("/readyz").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
