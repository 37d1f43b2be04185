"""A Redis that hangs: one wait for many records, and what the folder says in the meantime."""

from __future__ import annotations

import pytest
import redis

from tests.support.redis_server import RedisServer
from worker import patience
from worker.patience import Patience
from worker.records import JobStatus
from worker.service import Services


def test_one_question_that_timed_out_is_enough_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def hang() -> str:
        asked.append(1)
        raise redis.TimeoutError

    patient = Patience()
    assert [patient.ask(hang, "nothing") for _ in range(5)] == ["nothing"] * 5
    assert len(asked) == 1
    monkeypatch.setattr(patience.time, "monotonic", lambda: patient._rests_until)
    assert patient.ask(lambda: "again", "nothing") == "again"


def test_what_refuses_at_once_is_asked_every_time() -> None:
    def refuse() -> str:
        raise redis.ConnectionError

    patient = Patience()
    patient.ask(refuse, "")
    assert patient.ask(lambda: "there", "") == "there"


@pytest.mark.parametrize("status", [None, JobStatus.QUEUED])
def test_jobs_are_listed_while_redis_hangs(
    services: Services,
    redis_server: RedisServer,
    status: JobStatus | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    services.redis.connection_pool.connection_kwargs["socket_timeout"] = 0.3  # of those still to be made: all
    made = [services.start_job("sleep", {})[0].id for _ in range(4)]
    asked = []
    execute = services.redis.execute_command

    def counted(*args: object, **options: object) -> object:
        asked.append(args)
        return execute(*args, **options)

    monkeypatch.setattr(services.redis, "execute_command", counted)
    redis_server.pause()
    try:
        listed = services.jobs.list(status=status).items
    finally:
        redis_server.resume()
    assert [job.id for job in listed] == made[::-1]
    assert len(asked) == 1
