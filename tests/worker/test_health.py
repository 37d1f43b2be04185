from __future__ import annotations

import time

import pytest

from worker import health
from worker.identity import post, process_name
from worker.keys import Keys
from worker.redis_url import RedisAddress
from worker.settings import WorkerSettings


def seen(settings: WorkerSettings, name: str, ago_s: float) -> None:
    with RedisAddress.parse(settings.redis_address).client() as client:
        client.zadd(Keys(settings.redis_prefix).workers, {name: int((time.time() - ago_s) * 1000)})


def test_a_worker_of_this_machine_seen_lately_is_healthy(settings: WorkerSettings) -> None:
    assert not health.worker_is_at_its_post(settings)
    here = post(settings.node, process_name())
    seen(settings, here, 60)
    assert not health.worker_is_at_its_post(settings)  # hung
    for stranger in ("4194999-1", process_name()):  # another machine has processes of the same number
        seen(settings, post("another-node", stranger), 0)
        assert not health.worker_is_at_its_post(settings)
    seen(settings, here, 0)
    assert health.worker_is_at_its_post(settings)


def test_no_redis_is_unhealthy(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("NPT_REDIS_URL", "unix:///no/such.sock")
    assert health.main() == 1
    assert "/no/such.sock" in capsys.readouterr().err
