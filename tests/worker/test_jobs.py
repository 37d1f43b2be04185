"""Job records over a real store and server: create, replay, list, cancel, end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest

from tests.support.in_process import another, runner
from tests.support.redis_server import RedisServer
from worker import claims
from worker.errors import (
    CorruptRecordError,
    IdempotencyInFlight,
    IdempotencyMismatch,
    JobFinishedError,
    NotFoundError,
    StoreFullError,
)
from worker.records import TRANSITIONS, Attempt, JobEnd, JobProgress, JobStatus, Problem, utcnow
from worker.retention import Waste
from worker.service import Services


def attempt(fence: int, charged: int = 0) -> Attempt:
    return Attempt(
        fence=fence, charged=charged, node="n", boot="b", worker="1-1", pid=1, started_at=utcnow()
    )  # fmt: skip


def test_a_new_job_waits_and_says_where(services: Services) -> None:
    first, created = services.start_job("sleep", {"steps": 3}, name="mine", owner="key-1")
    second, _ = services.start_job("sleep", {})
    assert created
    assert (first.status, first.queue_position, first.name, first.owner) == (JobStatus.QUEUED, 0, "mine", "key-1")
    assert second.queue_position == 1
    assert services.jobs.get(first.id) == first
    assert services.queue.counts() == {"queued": 2, "running": 0, "succeeded": 0, "failed": 0, "cancelled": 0}
    assert services.redis.llen(services.keys.hints("default")) == 2


def test_nobody_knows_an_unknown_job(services: Services) -> None:
    for job_id in ("job_" + "0" * 26, "../../etc", ""):
        with pytest.raises(NotFoundError):
            services.jobs.get(job_id)
        with pytest.raises(NotFoundError):
            services.cancel_job(job_id)
    with pytest.raises(NotFoundError):
        services.start_job("tune", {}, dataset_id="0" * 64)
    with pytest.raises(NotFoundError):
        services.start_job("tune", {}, dataset_id="../x")
    assert list(services.jobs.files.ids()) == []


def test_a_job_runs_to_its_end(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 3, "pause": 0}, name="mine")
    assert runner(services).run_next() == job.id
    done = services.jobs.get(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert (done.attempts, done.counters["steps"], done.queue_position) == (1, 3, None)
    assert done.progress is not None
    assert done.progress.step == 3
    assert done.created_at <= (done.started_at or done.created_at) <= (done.finished_at or done.created_at)
    assert done.model_id
    model = services.models.get(done.model_id)
    assert (model.name, model.job_id, model.method) == ("mine", job.id, "sleep")
    assert services.models.manifest(model.id) == {"done": 3}
    assert services.models.verify(model.id) == ()
    assert not services.store.exists(f"jobs/{job.id}/checkpoint")
    assert services.queue.counts()["succeeded"] == 1
    assert runner(services).run_next() is None


def test_a_users_mistake_fails_at_once_and_says_everything(services: Services) -> None:
    job, _ = services.start_job("fail", {})
    runner(services).run_next()
    done = services.jobs.get(job.id)
    assert (done.status, done.attempts) == (JobStatus.FAILED, 1)
    assert done.error is not None
    assert (done.error.type, done.error.errors[0].path) == ("unusable-dataset", "a/b.png")


def test_a_bug_is_told_without_its_details(services: Services) -> None:
    job, _ = services.start_job("fail", {"how": "bug"})
    runner(services).run_next()
    error = services.jobs.get(job.id).error
    assert error is not None
    assert error.type == "internal-error"
    assert "secret detail" not in error.model_dump_json()


def test_an_unknown_kind_fails_clearly(services: Services) -> None:
    job, _ = services.start_job("nonsense", {})
    runner(services).run_next()
    error = services.jobs.get(job.id).error
    assert error is not None
    assert "nonsense" in error.detail


def test_a_deadline_ends_a_job(open_floor: Callable[..., Services]) -> None:
    services = open_floor(job_deadline_s=0.2)
    job, _ = services.start_job("sleep", {"steps": 1000, "pause": 0.01})
    runner(services).run_next()
    done = services.jobs.get(job.id)
    assert done.error is not None
    assert (done.status, done.error.type) == (JobStatus.FAILED, "deadline-exceeded")


def test_a_waiting_job_is_cancelled_at_once(services: Services) -> None:
    job, _ = services.start_job("sleep", {})
    done = services.cancel_job(job.id)
    assert (done.status, done.attempts, done.cancel_requested) == (JobStatus.CANCELLED, 0, True)
    assert services.queue.waiting() == []
    assert runner(services).run_next() is None
    with pytest.raises(JobFinishedError):
        services.cancel_job(job.id)


def test_a_running_job_is_cancelled_in_its_steps(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 100_000, "pause": 0.01})
    thread = threading.Thread(target=runner(services).run_next)
    thread.start()
    while (services.jobs.get(job.id).progress or JobProgress()).step < 2:
        pass
    assert services.cancel_job(job.id).cancel_requested
    thread.join(30)
    done = services.jobs.get(job.id)
    assert (done.status, done.model_id) == (JobStatus.CANCELLED, None)
    assert services.models.list().items == []
    assert not list(services.store.path(f"jobs/{job.id}").rglob("manifest.json"))


def test_a_cancel_that_nobody_looked_for_still_counts(services: Services) -> None:
    job, _ = services.start_job("deaf", {"seconds": 1})
    thread = threading.Thread(target=runner(services).run_next, daemon=True)
    thread.start()
    while not services.store.exists(f"jobs/{job.id}/attempts/0001"):  # at work, past the look before it
        pass
    services.cancel_job(job.id)
    thread.join(30)
    assert services.jobs.get(job.id).status is JobStatus.CANCELLED


def test_cancel_survives_a_broker_that_is_away(
    services: Services, redis_server: RedisServer, open_floor: Callable[..., Services]
) -> None:
    waiting, _ = services.start_job("sleep", {})
    redis_server.kill()
    try:
        assert services.cancel_job(waiting.id).cancel_requested
        unseen, created = services.start_job("sleep", {"steps": 1, "pause": 0})
        assert created
        assert unseen.status is JobStatus.QUEUED
    finally:
        redis_server.start()  # empty
    services.reaper.run_once()
    assert services.jobs.get(waiting.id).status is JobStatus.CANCELLED
    assert runner(services).run_next() == unseen.id
    assert services.jobs.get(unseen.id).status is JobStatus.SUCCEEDED


def test_terminal_states_never_change(services: Services) -> None:
    job, _ = services.start_job("sleep", {})
    problem = Problem(type="x", title="X", detail="x")
    assert services.jobs.finish(job.id, services.jobs.failed(job.id, problem))
    assert not services.jobs.finish(job.id, services.jobs.cancelled(job.id))
    assert services.jobs.get(job.id).status is JobStatus.FAILED
    assert all(TRANSITIONS[status] == frozenset() for status in JobStatus if status.terminal)


def test_lists_are_paged_newest_first(services: Services) -> None:
    ids = [services.start_job("sleep", {})[0].id for _ in range(7)]
    for job_id in ids[::2]:
        services.cancel_job(job_id)

    def pages(status: JobStatus | None) -> list[list[str]]:
        found, cursor = [], None
        while True:
            page = services.jobs.list(status=status, limit=3, cursor=cursor)
            found.append([record.id for record in page.items])
            cursor = page.next_cursor
            if cursor is None:
                return found

    newest = ids[::-1]
    for _ in range(2):  # by the folders, then by the index
        assert pages(None) == [newest[:3], newest[3:6], newest[6:]]
        assert pages(JobStatus.CANCELLED) == [newest[::2][:3], newest[::2][3:]]
        assert pages(JobStatus.QUEUED) == [newest[1::2]]
        assert pages(JobStatus.RUNNING) == [[]]
        services.reaper.run_once()
        assert services.redis.exists(services.keys.epoch)


def test_a_damaged_record_harms_no_other(services: Services) -> None:
    good, _ = services.start_job("sleep", {})
    bad, _ = services.start_job("sleep", {})
    services.store.put(f"jobs/{bad.id}/job.json", b'{"id": "trunca')
    with pytest.raises(CorruptRecordError, match=bad.id):
        services.jobs.get(bad.id)
    assert [record.id for record in services.jobs.list().items] == [good.id]
    services.reconciler.run()
    assert runner(services).run_next() == good.id
    assert runner(services).run_next() is None  # it is ended, and nothing else waits
    end = services.jobs.files.end(bad.id)
    assert end is not None
    assert end.error is not None
    assert end.error.type == "corrupt-record"


# -- idempotency


def test_the_same_request_is_replayed_and_another_refused(services: Services) -> None:
    first, created = services.start_job("sleep", {"a": 1}, idempotency_key="k", fingerprint="f", owner="o")
    again, created_again = services.start_job("sleep", {"a": 1}, idempotency_key="k", fingerprint="f", owner="o")
    assert (created, created_again) == (True, False)
    assert again.id == first.id
    with pytest.raises(IdempotencyMismatch):
        services.start_job("sleep", {"a": 2}, idempotency_key="k", fingerprint="g", owner="o")
    other, created = services.start_job("sleep", {"a": 1}, idempotency_key="k", fingerprint="f", owner="somebody else")
    assert created
    assert other.id != first.id
    assert len(services.queue.waiting()) == 2


def test_a_key_in_flight_conflicts_until_its_request_is_surely_dead(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services.jobs.files, "put_spec", _die)
    with pytest.raises(RuntimeError):
        services.start_job("sleep", {}, idempotency_key="k", fingerprint="f")
    monkeypatch.undo()
    with pytest.raises(IdempotencyInFlight):
        services.start_job("sleep", {}, idempotency_key="k", fingerprint="f")
    monkeypatch.setattr(claims, "IN_FLIGHT_S", -1.0)
    job, created = services.start_job("sleep", {}, idempotency_key="k", fingerprint="f")
    assert created
    assert services.start_job("sleep", {}, idempotency_key="k", fingerprint="f")[0].id == job.id


def test_a_refused_request_does_not_use_up_its_key(services: Services) -> None:
    for _ in range(2):
        with pytest.raises(NotFoundError):
            services.start_job("tune", {}, dataset_id="0" * 64, idempotency_key="k", fingerprint="f")
    job, created = services.start_job("sleep", {}, idempotency_key="k", fingerprint="another")
    assert created
    assert services.jobs.get(job.id).status is JobStatus.QUEUED


def test_a_damaged_job_does_not_keep_data_sets(services: Services) -> None:
    job, _ = services.start_job("sleep", {})
    services.store.put(f"jobs/{job.id}/job.json", b"{")
    assert services.jobs.uses("0" * 64) is None


def test_a_result_that_cannot_be_written_fails_the_job(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise PermissionError("read-only")

    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    monkeypatch.setattr(services.store, "sync", broken)
    assert runner(services).run_next() == job.id
    done = services.jobs.get(job.id)
    assert done.status is JobStatus.FAILED
    assert done.error is not None
    assert done.error.type == "store-full"


def test_a_result_makes_room_for_the_word_that_it_cannot_be_kept(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a volume that the half written result itself has filled to the last byte."""
    put_end = services.jobs.files.put_end

    def full(job_id: str, end: JobEnd) -> bool:
        if services.store.exists(services.jobs.files.attempt_key(job_id, 1)):
            raise StoreFullError("The data volume is full.")
        return put_end(job_id, end)

    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    monkeypatch.setattr(services.jobs.files, "put_end", full)
    runner(services).run_next()
    done = services.jobs.get(job.id)
    assert done.status is JobStatus.FAILED
    assert done.error is not None
    assert done.error.type == "store-full"
    assert services.models.list().items == []


def test_a_damaged_job_folder_is_given_up_in_the_end_and_the_queue_goes_on(services: Services) -> None:
    broken, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    services.store.put(f"jobs/{broken.id}/attempts/0001.json", b"")
    healthy, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    for _ in range(6):
        if runner(services).run_next() == healthy.id:
            break
    assert services.jobs.get(healthy.id).status is JobStatus.SUCCEEDED


def _die(*_: object) -> bool:
    raise RuntimeError("the request dies here")


def test_twenty_requests_with_one_key_make_one_job(services: Services) -> None:
    found: list[str] = []
    start = threading.Barrier(20)

    def ask() -> None:
        start.wait()
        try:
            found.append(services.start_job("sleep", {}, idempotency_key="k", fingerprint="f")[0].id)
        except IdempotencyInFlight:
            found.append("in flight")

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20
    assert len(set(found) - {"in flight"}) == 1
    assert len(services.queue.waiting()) == 1


def test_keys_are_forgotten_in_time(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = services.start_job("sleep", {}, idempotency_key="k", fingerprint="f")
    later = utcnow() + timedelta(days=2)
    monkeypatch.setattr(claims, "utcnow", lambda: later)
    second, created = services.start_job("sleep", {}, idempotency_key="k", fingerprint="g")
    assert created
    assert second.id != first.id


# -- attempts that meet


def test_the_first_commit_wins_and_the_later_discards_itself(services: Services) -> None:
    """The job is claimed again, and finished, while a first attempt is at work; then that one finishes too."""
    job, _ = services.start_job("sleep", {"steps": 20, "pause": 0.1, "checkpoint_every": 0})
    slow = threading.Thread(target=runner(services).run_next)
    slow.start()
    while not services.jobs.files.fences(job.id):
        pass
    services.leases.release(job.id, 1, "drained")
    services.store.put(f"jobs/{job.id}/checkpoint/0001", b"")  # damaged: the second starts anew
    assert runner(services).run_next() == job.id
    slow.join(30)
    done = services.jobs.get(job.id)
    assert (done.status, done.attempts) == (JobStatus.SUCCEEDED, 2)
    assert [model.id for model in services.models.list().items] == [done.model_id]
    assert len(list(services.store.path(f"jobs/{job.id}").glob("end*"))) == 1


def test_an_attempt_that_lost_its_lease_steps_back(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 100_000, "pause": 0.01})
    thread = threading.Thread(target=runner(services).run_next, daemon=True)
    thread.start()
    while not services.jobs.files.fences(job.id):
        pass
    services.leases.release(job.id, 1, "drained")
    thread.join(30)
    assert not thread.is_alive()
    assert services.jobs.get(job.id).status is JobStatus.QUEUED
    assert not services.jobs.files.ended(job.id)
    assert services.store.names(f"jobs/{job.id}/attempts") == ["0001.json"]


def test_a_number_that_was_used_is_not_used_again(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    services.jobs.files.put_attempt(job.id, attempt(1))
    services.jobs.files.put_attempt(job.id, attempt(4))
    runner(services).run_next()
    assert services.jobs.files.fences(job.id) == [1, 4, 5]
    assert services.jobs.get(job.id).status is JobStatus.SUCCEEDED


def test_a_drained_job_goes_back_uncharged_and_goes_on_where_it_was(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 60, "pause": 0.05})
    drain = threading.Event()
    first = threading.Thread(target=runner(services, drain=drain).run_next)
    first.start()
    while (services.jobs.get(job.id).progress or JobProgress()).step < 3:
        pass
    drain.set()
    first.join(30)
    back = services.jobs.get(job.id)
    assert (back.status, back.attempts) == (JobStatus.QUEUED, 1)
    end = services.jobs.files.attempt_end(job.id, 1)
    assert end is not None
    assert (end.outcome, end.charged) == ("drained", 0)
    runner(services).run_next()
    done = services.jobs.get(job.id)
    assert done.status is JobStatus.SUCCEEDED
    assert done.result is not None
    assert done.result["resumed_at"] >= 3


def test_a_damaged_checkpoint_is_passed_over(services: Services) -> None:
    files = services.jobs.files
    job, _ = services.start_job("sleep", {})
    files.save_checkpoint(job.id, 1, b"one")
    assert files.load_checkpoint(job.id) == b"one"
    files.save_checkpoint(job.id, 2, b"two")
    files.save_checkpoint(job.id, 1, b"from a stale owner")
    assert files.load_checkpoint(job.id) == b"two"
    path = services.store.path(f"jobs/{job.id}/checkpoint/0002")
    path.write_bytes(path.read_bytes()[:-1] + b"X")
    assert files.load_checkpoint(job.id) == b"from a stale owner"


# -- redis forgets


def test_flushing_redis_loses_nothing(services: Services, open_floor: Callable[..., Services]) -> None:
    ended, _ = services.start_job("fail", {})
    services.cancel_job(ended.id)
    running, _ = services.start_job("sleep", {})
    lease = services.leases.claim("default", another(services))
    assert lease is not None
    assert lease.job_id == running.id
    services.jobs.files.put_attempt(running.id, attempt(lease.fence))
    waiting = [services.start_job("sleep", {"steps": 1, "pause": 0})[0].id for _ in range(3)]
    services.reaper.run_once()
    services.redis.flushall()
    assert services.jobs.get(running.id).status is JobStatus.RUNNING
    assert services.jobs.get(waiting[0]).status is JobStatus.QUEUED
    services.reaper.run_once()
    assert services.queue.waiting() == waiting
    assert services.queue.counts() == {"queued": 3, "running": 1, "succeeded": 0, "failed": 0, "cancelled": 1}
    assert services.leases.renew(running.id, lease.fence) == ("held", False)
    assert services.redis.llen(services.keys.hints("default")) == 3
    assert services.redis.exists(services.keys.epoch)


def test_a_drained_job_is_not_taken_for_running_after_a_flush(services: Services) -> None:
    job, _ = services.start_job("sleep", {})
    lease = services.leases.claim("default", another(services))
    assert lease is not None
    services.jobs.files.put_attempt(job.id, attempt(1, charged=1))
    services.recovery.release(job.id, 1, "drained")
    services.redis.flushall()
    services.reaper.run_once()
    assert services.queue.waiting() == [job.id]
    again = services.leases.claim("default", another(services))
    assert again is not None
    assert again.fence == 2


def test_an_interrupted_move_of_a_model_is_finished(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    monkeypatch.setattr(services.jobs, "settle", lambda job_id: None)  # dies right after the terminal file
    runner(services).run_next()
    monkeypatch.undo()
    end = services.jobs.files.end(job.id)
    assert end is not None
    assert end.model_id is not None
    assert services.store.names("models") == []
    services.reconciler.run()
    assert services.models.get(end.model_id).job_id == job.id
    services.models.delete(end.model_id)
    services.reconciler.request()
    services.reaper.run_once()
    assert services.jobs.get(job.id).status is JobStatus.SUCCEEDED
    assert services.models.list().items == []  # what was deleted stays so


def test_reading_a_job_also_finishes_the_move(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    monkeypatch.setattr(services.jobs, "settle", lambda job_id: None)
    runner(services).run_next()
    monkeypatch.undo()
    model_id = services.jobs.get(job.id).model_id
    assert model_id is not None
    assert services.models.folder(model_id).is_dir()


# -- the reaper


def test_two_reapers_free_a_dead_job_once(open_floor: Callable[..., Services]) -> None:
    now = [10_000_000]
    one, two = open_floor(clock=lambda: now[0]), open_floor(clock=lambda: now[0])
    job, _ = one.start_job("sleep", {"steps": 1, "pause": 0})
    one.reaper.run_once()
    two.reaper.run_once()
    one.redis.delete(one.keys.hints("default"))
    lease = one.leases.claim("default", another(one, node="elsewhere"))
    assert lease is not None
    one.jobs.files.put_attempt(job.id, attempt(1))
    now[0] += 60_000
    threads = [threading.Thread(target=each.reaper.run_once) for each in (one, two) * 4]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert one.jobs.get(job.id).status is JobStatus.QUEUED
    end = one.jobs.files.attempt_end(job.id, 1)
    assert end is not None
    assert end.charged == 1
    assert runner(two).run_next() == job.id


def test_poison_fails_and_the_queue_goes_on(services: Services) -> None:
    bad, _ = services.start_job("crash", {})
    good, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    for fence in (1, 2, 3):
        lease = services.leases.claim("default", another(services))
        assert lease is not None
        assert lease.job_id == bad.id
        services.jobs.files.put_attempt(bad.id, attempt(fence, lease.charged))
        services.recovery.release(bad.id, fence, "died")
    done = services.jobs.get(bad.id)
    assert done.error is not None
    assert (done.status, done.error.type, done.attempts) == (JobStatus.FAILED, "poison", 3)
    assert runner(services).run_next() == good.id


def test_a_job_without_steps_is_stalled_by_its_own_clock(services: Services) -> None:
    job, _ = services.start_job("sleep", {})
    lease = services.leases.claim("default", another(services))
    assert lease is not None
    services.leases.renew(job.id, lease.fence, idle_ms=599_000)
    services.reaper.run_once()
    assert services.jobs.get(job.id).status is JobStatus.RUNNING
    services.leases.renew(job.id, lease.fence, idle_ms=601_000)
    services.reaper.run_once()
    done = services.jobs.get(job.id)
    assert done.error is not None
    assert (done.status, done.error.type) == (JobStatus.FAILED, "stalled")
    assert services.leases.renew(job.id, lease.fence)[0] == "lost"


def test_lost_hints_are_made_good(services: Services) -> None:
    services.start_job("sleep", {})
    services.reaper.run_once()
    services.redis.delete(services.keys.hints("default"))
    services.reaper.run_once()
    services.reaper.run_once()
    assert services.redis.llen(services.keys.hints("default")) == 1


def test_health_says_what_is_wrong(services: Services, redis_server: RedisServer) -> None:
    services.queue.seen("1-1@here")
    fine = services.health()
    assert (fine["redis"], fine["store"], fine["workers"]) == (True, True, 1)
    redis_server.kill()
    try:
        assert services.health()["redis"] is False
    finally:
        redis_server.start()


def test_what_a_job_made_for_its_user_stays_and_the_rest_goes(services: Services) -> None:
    job, _ = services.start_job("write", {})
    with pytest.raises(NotFoundError, match=r"has no made\.txt"):
        services.jobs.files.result(job.id, "made.txt")
    assert runner(services).run_next() == job.id
    files = services.jobs.files
    assert files.result(job.id, "made.txt").read_text() == "1"
    assert not services.store.exists(files.attempt_key(job.id, 1))
    services.jobs.settle(job.id)
    assert files.result(job.id, "made.txt").read_text() == "1"


def test_a_worker_that_dies_between_the_end_and_the_move_loses_no_result(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, _ = services.start_job("write", {})
    with monkeypatch.context() as patch:
        patch.setattr(services.jobs, "settle", lambda job_id: None)
        runner(services).run_next()
    assert services.store.exists(f"{services.jobs.files.attempt_key(job.id, 1)}/results")
    assert services.jobs.get(job.id).status is JobStatus.SUCCEEDED  # whoever looks finishes the move
    assert services.jobs.files.result(job.id, "made.txt").read_text() == "1"


def test_a_job_that_failed_leaves_no_results(services: Services) -> None:
    job, _ = services.start_job("write", {"fail": True})
    runner(services).run_next()
    assert services.jobs.get(job.id).status is JobStatus.FAILED
    with pytest.raises(NotFoundError):
        services.jobs.files.result(job.id, "made.txt")
    assert not services.store.exists(services.jobs.files.attempt_key(job.id, 1))


def test_two_that_find_a_key_over_at_the_same_moment_start_one_job(
    open_floor: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = open_floor(idempotency_ttl_s=600.0)
    asked = {"idempotency_key": "again", "fingerprint": "f"}
    services.start_job("sleep", {}, **asked)
    (place,) = services.store.names("idempotency")
    key = f"idempotency/{place}"
    over = claims.Claim.model_validate_json(services.store.get(key))
    over = over.model_copy(update={"created_at": utcnow() - timedelta(hours=1)})
    services.store.put(key, over.to_json())
    real = claims.read_record

    def other_was_quicker(*args: Any) -> Any:
        found = real(*args)
        if found == over:
            monkeypatch.setattr(claims, "read_record", real)
            assert services.start_job("sleep", {}, **asked)[1]
        return found

    monkeypatch.setattr(claims, "read_record", other_was_quicker)
    with pytest.raises(IdempotencyInFlight):
        services.start_job("sleep", {}, **asked)
    assert len(list(services.jobs.files.ids())) == 2
    waste = next(one for one in _claims_over(services, over) if one.id == key)
    assert not waste.remove()
    assert not services.start_job("sleep", {}, **asked)[1]


def _claims_over(services: Services, over: claims.Claim) -> list[Waste]:
    """What a sweep found to be over just before the key was used again."""
    key = f"idempotency/{services.store.names('idempotency')[0]}"
    now = services.store.get(key)
    services.store.put(key, over.to_json())
    found = [one for one in services.retention.find() if one.kind == "claim"]
    services.store.put(key, now)
    return found


def test_who_reads_a_job_that_is_removed_at_that_moment_leaves_no_folder(services: Services) -> None:
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    runner(services).run_next()
    end = services.jobs.files.end(job.id)
    assert end is not None
    assert services.jobs.remove(job.id)
    services.jobs.carry_out(job.id, end)
    assert services.store.names("jobs") == []
