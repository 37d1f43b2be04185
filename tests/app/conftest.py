"""One Redis-protocol server, one pair of tiny towers, one open API for the folder; other settings need an own one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from app.settings import AppSettings
from tests.support.api import Api, running_api, write_towers
from tests.support.redis_server import RedisServer


@pytest.fixture(scope="session", autouse=True)
def quiet_logs() -> None:
    """Log lines through the standard library, where pytest catches them, and without pictures of tracebacks."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


@pytest.fixture
def logging_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """For commands that run in this process: they do not set up logging.

    Loggers keep what they were first used with, and every later test would log to a stream that is closed by then.
    """
    for module in ("worker.logs", "app.embedded", "app.server"):
        monkeypatch.setattr(f"{module}.setup_logging", lambda *_: None)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def towers(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return write_towers(tmp_path_factory.mktemp("towers"))


@pytest.fixture(scope="session")
def make_settings(tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer) -> Callable[..., AppSettings]:
    """Settings of a fresh data folder and a Redis prefix of its own."""
    count = iter(range(10_000))

    def make(**changes: Any) -> AppSettings:
        number = next(count)
        folder: Path = tmp_path_factory.mktemp(f"api{number}")
        defaults: dict[str, Any] = {
            "data_dir": folder / "data",
            "redis_url": redis_server.url,
            "redis_prefix": f"t{number}",
            "device": "cpu",
            "preload": False,
            "min_free_bytes": 0,
            "torch_threads": 1,
            "decode_threads": 2,
        }
        return AppSettings(**(defaults | changes))

    return make


@pytest.fixture(scope="session")
def api(make_settings: Callable[..., AppSettings], towers: tuple[str, str]) -> Iterator[Api]:
    """An open server on loopback with two tiny backbones."""
    with running_api(make_settings(backbone=towers[0], backbones=(towers[1],))) as running:
        yield running


@pytest.fixture(scope="session")
def plain(make_settings: Callable[..., AppSettings]) -> Iterator[Api]:
    """An open server of which no tower is ever asked, so that torch stays away."""
    with running_api(make_settings(backbone="demo")) as running:
        yield running
