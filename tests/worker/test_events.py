"""Progress over a real stream: snapshot, resume, many listeners, slow listeners, a stream that is lost."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from tests.support.in_process import runner
from tests.support.redis_server import RedisServer
from worker import events as events_module
from worker.errors import NotFoundError
from worker.events import Event
from worker.service import Services


def run(scenario: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(scenario, 60))


async def collect(services: Services, job_id: str, last_id: str | None = None) -> list[Event]:
    return [event async for event in services.events.tail(job_id, last_id)]


def kinds(events: list[Event]) -> list[str]:
    return [event["event"] for event in events]


def test_snapshot_progress_end(services: Services) -> None:
    async def scenario() -> tuple[list[Event], list[Event]]:
        job, _ = await asyncio.to_thread(services.start_job, "sleep", {"steps": 5, "pause": 0.2})
        first, second = (asyncio.create_task(collect(services, job.id)) for _ in range(2))
        await asyncio.sleep(0.3)
        await asyncio.to_thread(runner(services).run_next)
        found = await first, await second
        assert services.events._tailers == {}
        await services.events.aclose()
        return found

    first, second = run(scenario())
    assert kinds(first)[0] == "snapshot"
    assert first[0]["data"]["status"] == "queued"
    assert kinds(first)[-1] == "end"
    assert first[-1]["data"]["status"] == "succeeded"
    steps = [event["data"]["step"] for event in first if event["event"] == "progress"]
    assert steps == sorted(steps) != []
    assert {"event": "status", "data": {"status": "running", "attempt": 1}}.items() <= first[1].items()
    assert kinds(second)[-1] == "end"
    ids = [event["id"] for event in first[1:]]
    assert len(set(ids)) == len(ids)


def test_a_listener_that_comes_back_misses_nothing_and_hears_nothing_twice(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 6, "pause": 0.2})
    runner(services).run_next()

    async def scenario() -> None:
        newest = await services.events.tail(job.id, "0-0").__anext__()
        everything = await collect(services, job.id, "0-0")
        assert newest == everything[0]
        assert kinds(everything)[-1] == "end"
        for position, event in enumerate(everything[:-1]):
            assert await collect(services, job.id, event["id"]) == everything[position + 1 :]
        await services.events.aclose()

    run(scenario())


def test_a_listener_ahead_of_the_stream_still_hears_the_end(services: Services) -> None:
    job, _ = services.start_job("sleep", {})

    async def scenario() -> None:
        listening = asyncio.create_task(collect(services, job.id, "99999999999999-0"))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(services.cancel_job, job.id)
        assert kinds(await asyncio.wait_for(listening, 10))[-1] == "end"
        await services.events.aclose()

    run(scenario())


@pytest.mark.parametrize("resumes", [False, True])
def test_nothing_falls_between_the_look_back_and_the_waiting(
    services: Services, monkeypatch: pytest.MonkeyPatch, resumes: bool
) -> None:
    job, _ = services.start_job("sleep", {})
    publish = services.events.publish
    real = events_module._Tailer.last_id, events_module._Tailer.since

    async def scenario() -> list[Event]:
        looked_back = asyncio.Event()
        asyncio.get_running_loop().call_later(0.5, looked_back.set)  # where nobody looks back before

        async def last_id(tailer: Any) -> str:
            if (task := asyncio.current_task()) and task.get_name().startswith("tail"):
                await looked_back.wait()
                return await real[0](tailer)
            return await between(await real[0](tailer))

        async def since(tailer: Any, last: str) -> list[Event]:
            return await between(await real[1](tailer, last))

        async def between(found: Any) -> Any:
            await asyncio.to_thread(publish, job.id, "progress", {"step": 1})
            looked_back.set()
            return found

        monkeypatch.setattr(events_module._Tailer, "last_id", last_id)
        monkeypatch.setattr(events_module._Tailer, "since", since)
        stream = services.events.tail(job.id, "99-0" if resumes else None)
        found = [await anext(stream)]
        await asyncio.to_thread(services.cancel_job, job.id)
        found += [event async for event in stream]
        await services.events.aclose()
        return found

    found = run(scenario())
    assert [event["data"]["step"] for event in found if event["event"] == "progress"] == [1]
    assert kinds(found)[-1] == "end"


def test_an_entry_that_cannot_be_read_costs_nobody_the_end(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "BLOCK_MS", 200)
    monkeypatch.setattr(events_module, "RETRY_S", 0.1)
    job, _ = services.start_job("sleep", {})

    async def scenario() -> list[Event]:
        stream = services.events.tail(job.id)
        found = [await anext(stream)]
        services.redis.xadd(services.keys.events(job.id), {"event": "progress", "data": "{"})
        await asyncio.to_thread(services.cancel_job, job.id)
        found += [event async for event in stream]
        await services.events.aclose()
        return found

    assert kinds(run(scenario())) == ["snapshot", "end"]


def test_an_ended_job_answers_at_once_even_without_redis(services: Services, redis_server: RedisServer) -> None:
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    runner(services).run_next()
    redis_server.kill()

    async def scenario() -> list[Event]:
        found = await collect(services, job.id)
        await services.events.aclose()
        return found

    try:
        found = run(scenario())
    finally:
        redis_server.start()
    assert kinds(found) == ["snapshot", "end"]
    assert found[1]["data"]["status"] == "succeeded"


def test_the_end_comes_even_when_its_event_is_lost(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events_module, "BLOCK_MS", 200)
    job, _ = services.start_job("sleep", {})

    async def scenario() -> list[Event]:
        listening = asyncio.create_task(collect(services, job.id))
        await asyncio.sleep(0.3)
        services.jobs.announce = lambda job_id, event, data: None  # its worker dies before it says so
        await asyncio.to_thread(services.cancel_job, job.id)
        services.redis.flushall()
        found = await listening
        await services.events.aclose()
        return found

    assert kinds(run(scenario())) == ["snapshot", "end"]


def test_a_slow_listener_loses_progress_but_not_the_end(
    services: Services, monkeypatch: pytest.MonkeyPatch, open_floor: Callable[..., Services]
) -> None:
    monkeypatch.setattr(events_module, "LISTENER_QUEUE", 8)
    job, _ = services.start_job("sleep", {})

    async def scenario() -> list[Event]:
        stream = services.events.tail(job.id)
        found = [await anext(stream)]
        for step in range(50):
            await asyncio.to_thread(services.events.publish, job.id, "progress", {"step": step})
        await asyncio.to_thread(services.cancel_job, job.id)
        await asyncio.sleep(0.5)  # asleep while everything arrives
        found += [event async for event in stream]
        await services.events.aclose()
        return found

    found = run(scenario())
    assert len(found) == 1 + 8
    assert kinds(found)[-1] == "end"
    assert [event["data"]["step"] for event in found[1:-1]] == list(range(43, 50))


def test_streams_are_bounded_and_do_not_stay(open_floor: Callable[..., Services]) -> None:
    services = open_floor(events_max=50)
    job, _ = services.start_job("sleep", {})
    for step in range(1000):
        services.events.publish(job.id, "progress", {"step": step})
    key = services.keys.events(job.id)
    assert services.redis.xlen(key) < 300
    assert 0 < services.redis.ttl(key) <= 24 * 3600
    progress = services.jobs.get(job.id).progress
    assert progress is not None
    assert progress.step == 999


def test_progress_is_thinned_out(open_floor: Callable[..., Services]) -> None:
    services = open_floor(progress_per_s=5.0)
    job, _ = services.start_job("sleep", {"steps": 200, "pause": 0.001, "checkpoint_every": 0})
    runner(services).run_next()
    entries = services.redis.xrange(services.keys.events(job.id))
    assert sum(fields["event"] == "progress" for _, fields in entries) < 100


def test_nobody_listens_to_an_unknown_job(services: Services) -> None:
    async def scenario() -> None:
        with pytest.raises(NotFoundError):
            await collect(services, "job_" + "0" * 26)
        await services.events.aclose()

    run(scenario())


def test_two_hundred_idle_listeners_share_one_connection(services: Services) -> None:
    job, _ = services.start_job("sleep", {})

    async def scenario() -> None:
        streams = [services.events.tail(job.id) for _ in range(200)]
        for stream in streams:
            await anext(stream)
        waiting = [asyncio.create_task(anext(stream)) for stream in streams]
        await asyncio.sleep(0.2)
        clients = await asyncio.to_thread(services.redis.info, "clients")
        assert clients["blocked_clients"] == 1
        await asyncio.to_thread(services.cancel_job, job.id)
        assert {event["event"] for event in await asyncio.gather(*waiting)} == {"end"}
        for stream in streams:
            await stream.aclose()
        await services.events.aclose()

    run(scenario())


def test_geometry_comes_with_its_picture_and_not_too_often(services: Services) -> None:
    stages = {"held-out": 60, "all images": 3, **{f"fold {n}": 60 for n in range(6)}}
    job, _ = services.start_job("measure", {"stages": stages})
    runner(services).run_next()

    async def scenario() -> list[Event]:
        found = await collect(services, job.id, "0-0")
        await services.events.aclose()
        return found

    found = [one["data"] for one in run(scenario()) if one["event"] == "geometry"]
    assert all(one["geometry"] == {"lmc": 0.5} and one["picture"] == {"of": one["epoch"]} for one in found)
    counts = Counter(one["stage"] for one in found)
    assert (counts["held-out"], counts["all images"], counts["fold 0"]) == (51, 3, 51)
    assert counts.total() == 306
