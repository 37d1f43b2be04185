"""Listings by the index in Redis and by the folders say the same, whatever happens to Redis in between."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st

from tests.support.redis_server import RedisServer
from worker import jobreader
from worker.records import DatasetRecord, JobStatus, Problem, utcnow
from worker.service import Services
from worker.turns import nth_start

LIVE = (JobStatus.QUEUED, JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELLED)


def jobs_of(services: Services, status: JobStatus | None, limit: int) -> list[str]:
    """Every id, page by page."""
    found: list[str] = []
    cursor = None
    while True:
        page = services.jobs.list(status=status, limit=limit, cursor=cursor)
        assert len(page.items) <= limit
        found += [record.id for record in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return found


def end(services: Services, job_id: str, how: JobStatus) -> None:
    if how is JobStatus.QUEUED:
        return
    if how is JobStatus.CANCELLED:
        services.cancel_job(job_id)
    else:
        problem = Problem(type="x", title="X", detail="x") if how is JobStatus.FAILED else None
        services.jobs.finish(job_id, services.jobs.ending(job_id, how, problem))


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("make"), st.sampled_from(LIVE)),
        st.tuples(st.sampled_from(["flush", "reconcile", "doubt", "remove", "lose a folder"]), st.just(LIVE[0])),
    ),
    max_size=14,
)


@given(steps=STEPS, limit=st.integers(1, 4))
@given_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_index_and_a_plain_model_agree(
    open_floor: Callable[..., Services], redis_server: RedisServer, steps: list[tuple[str, JobStatus]], limit: int
) -> None:
    """Two processes take turns; the model is a dict of what was asked for."""
    both = [open_floor(), open_floor()]
    model: dict[str, JobStatus] = {}
    for job_id in list(both[0].jobs.files.ids()):
        both[0].store.delete(f"jobs/{job_id}")
    both[0].redis.flushall()
    for number, (what, how) in enumerate(steps):
        services = both[number % 2]
        ended = [job_id for job_id, status in model.items() if status.terminal]
        if what == "make":
            job, _ = services.start_job("sleep", {})
            end(services, job.id, how)
            model[job.id] = how
        elif what == "flush":
            services.redis.flushall()
        elif what == "reconcile":
            assert services.reconciler.run()
        elif what == "doubt":
            services.reconciler.request()
        elif ended and what == "remove":
            assert services.jobs.remove(ended[0])
            del model[ended[0]]
        elif ended:
            services.store.delete(f"jobs/{ended[-1]}")
            del model[ended[-1]]
        for status in (None, *LIVE):
            wanted = sorted((job_id for job_id, is_ in model.items() if status in (None, is_)), reverse=True)
            assert jobs_of(both[(number + 1) % 2], status, limit) == wanted
    both[0].reconciler.run()
    assert both[1].jobs.index.between(None, None) == model
    assert both[1].queue.waiting() == sorted(job_id for job_id, status in model.items() if not status.terminal)
    for services in both:
        services.close()


def test_a_job_that_redis_was_not_told_of_is_listed_by_every_process(
    open_floor: Callable[..., Services], redis_server: RedisServer
) -> None:
    here, there = open_floor(), open_floor()
    here.reconciler.run()
    with redis_server.client() as client:
        name = here.settings.redis_prefix
        client.set(f"{name}:status:queued", "not a set: no job can be noted")
    job, _ = here.start_job("sleep", {})
    with redis_server.client() as client:
        client.delete(f"{name}:status:queued", here.keys.job(job.id))
    assert [record.id for record in there.jobs.list(status=JobStatus.QUEUED).items] == [job.id]
    assert there.reconciler.run_if_needed()
    assert there.jobs.index.between(None, None) == {job.id: JobStatus.QUEUED}
    here.reconciler.run()
    assert not there.reconciler.run_if_needed()


def test_a_redis_that_was_started_again_is_read_into_again(services: Services, redis_server: RedisServer) -> None:
    services.reconciler.run_if_needed()
    assert not services.reconciler.run_if_needed()
    redis_server.kill()
    redis_server.start()
    with redis_server.client() as client:
        client.set(services.keys.epoch, "kept, and what was written last is not")
    assert services.reconciler.run_if_needed()


def test_a_page_looks_into_a_bounded_number_of_folders(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobreader, "MOST_LOOKS", 4)
    failed, _ = services.start_job("sleep", {})
    end(services, failed.id, JobStatus.FAILED)
    for _ in range(9):
        services.start_job("sleep", {})
    page = services.jobs.list(status=JobStatus.FAILED, limit=1)  # no reconciliation yet: by the folders
    assert page.items == []
    assert page.next_cursor is not None
    assert jobs_of(services, JobStatus.FAILED, 1) == [failed.id]


@given(
    free=st.lists(st.integers(0, 60), min_size=1, max_size=4),
    usual=st.integers(1, 20),
    n=st.integers(0, 60),
)
def test_starts_are_those_of_a_queue_played_through(free: list[int], usual: int, n: int) -> None:
    played = list(map(float, free))
    heapq.heapify(played)
    for _ in range(n):
        heapq.heapreplace(played, played[0] + usual)
    assert nth_start(free, usual, n) == pytest.approx(played[0], abs=1e-3)


@given(steps=st.lists(st.sampled_from(["put", "drop", "flush", "fill", "doubt"]), max_size=14), limit=st.integers(1, 3))
@given_settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_data_sets_are_listed_by_age(
    open_floor: Callable[..., Services], redis_server: RedisServer, steps: list[str], limit: int
) -> None:
    services = open_floor()
    services.store.delete("datasets")
    services.redis.flushall()
    began, model = utcnow(), dict[str, int]()
    for number, step in enumerate(steps):
        if step == "put":
            name = f"{number * 7919 % 97:064x}"
            record = DatasetRecord(
                id=name, created_at=began + timedelta(microseconds=number), size=0, images=0, labels=(), counts={}
            )
            services.datasets._keep(record, {}, tuple, None)
            model[name] = number
        elif step == "drop" and model:
            name = min(model)
            services.datasets.delete(name)
            del model[name]
        elif step == "flush":
            services.redis.flushall()
        elif step == "fill":
            services.reconciler.run()
        elif step == "doubt":
            services.reconciler.request()
        found, cursor = list[str](), None
        while True:
            page = services.datasets.list(limit=limit, cursor=cursor)
            found += [record.id for record in page.items]
            cursor = page.next_cursor
            if cursor is None:
                break
        assert found == sorted(model, key=model.__getitem__, reverse=True)
    services.close()


def test_what_is_gone_from_the_store_is_forgotten(services: Services) -> None:
    job, _ = services.start_job("sleep", {})
    services.store.delete(f"jobs/{job.id}")
    services.reconciler.run()
    assert services.jobs.index.between(None, None) == {}
    record = DatasetRecord(id="0" * 64, created_at=utcnow(), size=0, images=0, labels=(), counts={})
    services.datasets._keep(record, {}, tuple, None)
    assert services.redis.zcard(services.keys.datasets) == 1
    services.datasets.delete(record.id)
    assert services.redis.zcard(services.keys.datasets) == 0
