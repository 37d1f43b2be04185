"""One real service for the folder: its API, its worker, a Redis behind a password, keys; secrets in its environment."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.redis_server import RedisServer
from tests.support.service import Service, running_service, wait_for

KEY = "a-key-of-this-service-alone-41c3"
REDIS_PASSWORD = "the-password-of-its-redis-9f27"
HF_TOKEN = "hf_TheTokenOfItsOperator77ab"
SECRETS = (KEY, REDIS_PASSWORD, HF_TOKEN)

ANSWER_S = 120.0
"""How long an answer is waited for. One that never comes fails the test, a slow one does not."""

ROOM_BYTES = 700 * 1024**2
"""What a hostile upload may have the API take beside what it had before. Its limits allow less; see SECURITY.md."""

KEPT = frozenset({"run", "weights"})
"""Folders that are no uploads' business: sockets and marks of processes, the operator's weights."""


@dataclass
class Target:
    """The service, and what the tests ask of it."""

    service: Service
    client: httpx.Client
    api: psutil.Process
    redis: RedisServer

    def files(self) -> dict[str, int]:
        """Every file of the data folder that an upload could have left, with its size."""
        data = self.service.data
        found = {}
        for path in data.rglob("*"):
            where = path.relative_to(data)
            if where.parts[0] not in KEPT and path.is_file():
                found[where.as_posix()] = path.stat().st_size
        return found

    def peak_bytes(self) -> int:
        """The most memory that the API has held since `forget_peak`."""
        status = Path(f"/proc/{self.api.pid}/status").read_text()
        return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))) * 1024

    def forget_peak(self) -> int:
        """Have Linux count the peak anew; what is held now."""
        Path(f"/proc/{self.api.pid}/clear_refs").write_text("5")
        return int(self.api.memory_info().rss)


@pytest.fixture(scope="session")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    with RedisServer(password=REDIS_PASSWORD) as redis:
        settings = {
            "NPT_API_KEYS": KEY,
            "NPT_REDIS_URL": redis.url,
            "NPT_BACKBONE": "demo",
            "NPT_DEVICE": "cpu",
            "NPT_LOG_JSON": "true",
            "NPT_LOG_LEVEL": "DEBUG",
            "NPT_UPLOAD_IDLE_S": "2",
            "NPT_ANSWER_IDLE_S": "2",
            "NPT_MAX_ARCHIVE_BYTES": str(100 * 1024**2),
            "NPT_MAX_PREDICT_BYTES": str(40 * 1024**2),
            "NPT_MIN_FREE_BYTES": "0",
            "NPT_DECODE_THREADS": "2",
            "NPT_KEY_REQUESTS_PER_MINUTE": "0",
            "HF_TOKEN": HF_TOKEN,
        }
        with (
            running_service(folder / "data", **settings) as service,
            httpx.Client(base_url=service.url, timeout=ANSWER_S, headers={"X-API-Key": KEY}) as client,
        ):
            pid = wait_for("the API", lambda: _api(service))
            yield Target(service, client, psutil.Process(pid), redis)


def _api(service: Service) -> int | None:
    return next((pid for pid, command in service.processes().items() if "--listen-fd" in command), None)
