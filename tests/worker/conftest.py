"""A real Redis-protocol server and the wired worker floor, for every test of this folder that asks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.redis_server import RedisServer
from tests.support.s3_server import S3Server, any_s3
from tests.support.worker_process import WorkerProcess
from worker.service import Services, open_services
from worker.settings import WorkerSettings


@pytest.fixture(scope="session")
def shared_redis() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """Running; each test makes buckets of its own."""
    with any_s3() as server:
        yield server


@pytest.fixture
def redis_server(shared_redis: RedisServer) -> RedisServer:
    """Running and empty."""
    with shared_redis.client() as client:
        client.flushall()
    return shared_redis


@pytest.fixture
def settings(redis_server: RedisServer, tmp_path: Path) -> WorkerSettings:
    """Short times, so that what takes minutes in earnest takes seconds here."""
    return WorkerSettings(
        data_dir=tmp_path / "data",
        redis_url=redis_server.url,
        node="test-node",
        lease_ttl_s=3.0,
        reap_every_s=1.0,
        watch_every_s=0.2,
        stop_grace_s=4.0,
        min_free_bytes=0,
        warm_up=False,
    )


@pytest.fixture
def open_floor(settings: WorkerSettings) -> Iterator[Callable[..., Services]]:
    """Opens the worker floor, as often as a test likes: each is like another process."""
    opened: list[Services] = []

    def open_one(**changes: object) -> Services:
        clock = changes.pop("clock", None)
        services = open_services(settings.model_copy(update=changes), clock=clock)
        opened.append(services)
        return services

    yield open_one
    for services in opened:
        services.close()


@pytest.fixture
def services(open_floor: Callable[..., Services]) -> Services:
    return open_floor()


@pytest.fixture
def start_worker(settings: WorkerSettings, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Starts real workers; none outlives the test."""
    started: list[WorkerProcess] = []

    def start(**extra: str) -> WorkerProcess:
        worker = WorkerProcess(settings, tmp_path / f"worker-{len(started)}.log", **extra)
        started.append(worker)
        return worker.start()

    yield start
    for worker in started:
        worker.close()
        print(worker.text())
