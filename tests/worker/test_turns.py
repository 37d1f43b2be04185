"""Keys take turns: single rules, then any schedule against the policy in plain Python, on a real server."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.in_process import another, runner
from tests.support.redis_server import RedisServer
from worker.keys import Keys
from worker.lease import WORKER_SEEN_MS, Identity, LeaseScripts
from worker.records import JobProgress, JobStatus
from worker.service import Services
from worker.settings import WorkerSettings
from worker.turns import Outlook

WHO = Identity("node", "boot", "1-1", 1)


@pytest.fixture
def leases(redis_server: RedisServer) -> Iterator[LeaseScripts]:
    with redis_server.client() as client:
        yield LeaseScripts(client, Keys("t"), WorkerSettings(), lambda: 1_000_000)


def wait(leases: LeaseScripts, *jobs: str) -> None:
    """Jobs called by their age and their key: `3b` is of the key b."""
    for job in jobs:
        assert leases.enqueue(f"job_{job}", "default", owner=job[-1])


def start(leases: LeaseScripts) -> str | None:
    lease = leases.claim("default", WHO)
    return lease.job_id.removeprefix("job_") if lease else None


def drain(leases: LeaseScripts) -> list[str]:
    return list(iter(lambda: start(leases), None))  # type: ignore[arg-type]


class TestRules:
    def test_a_hundred_jobs_of_one_key_keep_nobody_waiting(self, leases: LeaseScripts) -> None:
        wait(leases, *(f"{n:03d}a" for n in range(100)))
        assert start(leases) == "000a"
        wait(leases, "500b", "600c", "601c")
        assert drain(leases)[:7] == ["500b", "600c", "001a", "601c", "002a", "003a", "004a"]

    def test_within_a_key_the_oldest_goes_first(self, leases: LeaseScripts) -> None:
        wait(leases, "3a", "1a", "2a")
        assert drain(leases) == ["1a", "2a", "3a"]

    def test_one_job_after_the_other_earns_no_more_than_a_turn(self, leases: LeaseScripts) -> None:
        """Who always has one job waiting is not ahead of who has many: the turn is remembered with no job there."""
        wait(leases, "1b", "2b", "3b", "0a")
        started = []
        for n in range(4, 8):
            started.append(start(leases))
            if started[-1][-1] == "a":
                wait(leases, f"{n}a")
        assert started == ["0a", "1b", "4a", "2b"]

    def test_who_was_idle_is_next_and_only_once(self, leases: LeaseScripts) -> None:
        wait(leases, "0c")
        start(leases)
        wait(leases, *(f"{n}a" for n in range(1, 6)))
        assert [start(leases), start(leases)] == ["1a", "2a"]
        wait(leases, "7c", "8c", "9c")
        assert drain(leases) == ["7c", "3a", "8c", "4a", "9c", "5a"]

    def test_a_job_that_comes_back_is_next_again(self, leases: LeaseScripts) -> None:
        wait(leases, "1a", "2b", "3b", "4a")
        assert start(leases) == "1a"
        assert leases.release("job_1a", 1, "drained") == ("queued", 0)
        assert leases.order("default") == ["job_1a", "job_2b", "job_4a", "job_3b"]
        assert [start(leases), start(leases)] == ["1a", "2b"]
        assert leases.release("job_2b", 1, "died") == ("queued", 1)
        assert drain(leases) == ["2b", "4a", "3b"]

    def test_a_late_return_takes_no_turn_from_a_key_twice(self, leases: LeaseScripts) -> None:
        wait(leases, "1a", "2a", "3a", "4b", "5b")
        assert [start(leases), start(leases), start(leases)] == ["1a", "4b", "2a"]
        leases.release("job_1a", 1, "drained")
        leases.release("job_2a", 1, "drained")
        assert drain(leases) == ["1a", "5b", "2a", "3a"]

    def test_a_cancelled_job_leaves_its_line(self, leases: LeaseScripts) -> None:
        wait(leases, "1a", "2b", "3a")
        leases.settle("job_1a", JobStatus.CANCELLED)
        assert leases.order("default") == ["job_2b", "job_3a"]
        assert leases.look(["job_1a"])[0].outlook is None

    def test_queues_are_apart(self, leases: LeaseScripts) -> None:
        wait(leases, "1a")
        leases.enqueue("job_0", "other", owner="a")
        assert leases.order("other") == ["job_0"]
        assert drain(leases) == ["1a"]
        assert leases.claim("other", WHO) is not None

    def test_a_line_that_was_lost_is_made_again(self, leases: LeaseScripts, redis_server: RedisServer) -> None:
        wait(leases, "1a")
        with redis_server.client() as client:
            client.delete("t:queue:default:of:a", "t:queue:default:owners")
        assert leases.order("default") == []
        assert not leases.enqueue("job_1a", "default", owner="a")  # what a reconciliation does with a queued job
        assert leases.order("default") == ["job_1a"]


class Policy(RuleBasedStateMachine):
    """Any arrivals, starts, returns and cancels; beside them what the docstring of `worker.turns` says, in Python."""

    leases: LeaseScripts
    flush: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.flush()
        self.count = 0
        self.waiting: dict[str, list[str]] = {}
        self.running: dict[str, int] = {}
        self.fences: dict[str, int] = {}
        self.owners: dict[str, str] = {}
        self.starts_while_waiting: dict[str, dict[str, int]] = {}  # of whoever waits: starts of the others since

    @rule(owner=st.sampled_from(["", "a", "b", "c"]), several=st.integers(1, 5))
    def arrive(self, owner: str, several: int) -> None:
        for _ in range(several):
            job = f"job_{self.count:04d}"
            self.count += 1
            assert self.leases.enqueue(job, "default", owner=owner)
            self.owners[job] = owner
            self.waiting.setdefault(owner, []).append(job)
            self.starts_while_waiting.setdefault(owner, {})

    @rule()
    def claim(self) -> None:
        expected = self.leases.order("default", 1)
        lease = self.leases.claim("default", WHO)
        assert ([lease.job_id] if lease else []) == expected
        if lease is None:
            assert not any(self.waiting.values())
            return
        owner = self.owners[lease.job_id]
        assert lease.job_id == min(self.waiting[owner]), "not the oldest of its key"
        self.waiting[owner].remove(lease.job_id)
        self.running[lease.job_id] = lease.fence
        for other, started in self.starts_while_waiting.items():
            if other != owner:
                started[owner] = started.get(owner, 0) + 1
                assert started[owner] <= 1, (other, "waited while another key had two turns")
        self.starts_while_waiting.pop(owner)
        if self.waiting[owner]:
            self.starts_while_waiting[owner] = {}

    @rule(data=st.data(), how=st.sampled_from(["drained", "outage"]))
    @precondition(lambda self: self.running)
    def come_back(self, data: st.DataObject, how: str) -> None:
        job = data.draw(st.sampled_from(sorted(self.running)))
        assert self.leases.release(job, self.running.pop(job), how)[0] == "queued"  # type: ignore[arg-type]
        owner = self.owners[job]
        for started in self.starts_while_waiting.values():  # the turn was given back
            started[owner] = started.get(owner, 0) - 1
        self.waiting.setdefault(owner, []).append(job)
        self.starts_while_waiting.setdefault(owner, {})

    @rule(data=st.data())
    @precondition(lambda self: any(self.waiting.values()))
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(job for line in self.waiting.values() for job in line)))
        self.leases.settle(job, JobStatus.CANCELLED)
        owner = self.owners[job]
        self.waiting[owner].remove(job)
        if not self.waiting[owner]:
            self.starts_while_waiting.pop(owner)

    @rule(data=st.data())
    @precondition(lambda self: self.running)
    def end(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(sorted(self.running)))
        self.running.pop(job)
        self.leases.settle(job, JobStatus.SUCCEEDED)

    @invariant()
    def every_waiting_job_is_in_the_order_once_and_where_it_is_told(self) -> None:
        order = self.leases.order("default")
        assert sorted(order) == sorted(job for line in self.waiting.values() for job in line)
        for place in {0, len(order) // 2, len(order) - 1} & set(range(len(order))):
            outlook = self.leases.look([order[place]])[0].outlook
            assert outlook is not None
            assert outlook.before == place
        assert self.leases.order("default", 3) == order[:3]

    def teardown(self) -> None:
        order = self.leases.order("default")
        started = []
        while (lease := self.leases.claim("default", WHO)) is not None:
            started.append(lease.job_id)
        assert started == order, "jobs did not start in the order that was told"


def test_any_schedule(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        scripts = LeaseScripts(client, Keys("t"), WorkerSettings(), lambda: 1_000_000)

        class Here(Policy):
            leases, flush = scripts, staticmethod(client.flushall)

        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


class TestServices:
    def test_the_record_says_when_a_job_is_to_start(self, services: Services) -> None:
        first, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, owner="a")
        assert (first.queue_position, first.starts_in_seconds) == (0, None)  # no worker was ever seen
        services.queue.seen("w")
        assert services.jobs.get(first.id).starts_in_seconds == 0
        second, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, owner="a")
        assert (second.queue_position, second.starts_in_seconds) == (1, None)  # no job has ended yet
        third, _ = services.start_job("sleep", {"steps": 1, "pause": 0}, owner="b")
        assert services.queue.waiting() == [first.id, third.id, second.id]
        assert runner(services).run_next() == first.id
        done = services.jobs.get(first.id)
        assert (done.queue_position, done.starts_in_seconds) == (None, None)
        told = services.jobs.get(second.id)
        assert told.queue_position == 1
        assert told.starts_in_seconds is not None
        assert runner(services).run_next() == third.id

    def test_owners_survive_a_flush_and_turns_begin_anew(self, services: Services) -> None:
        jobs = [services.start_job("sleep", {}, owner=owner)[0].id for owner in "aaab"]
        services.redis.flushall()
        services.reaper.run_once()
        assert services.queue.waiting() == [jobs[0], jobs[3], jobs[1], jobs[2]]

    def test_a_running_job_counts_by_its_own_account(self, services: Services) -> None:
        services.queue.seen("w")
        running, _ = services.start_job("sleep", {}, owner="a")
        services.leases.claim("default", another(services))
        waiting, _ = services.start_job("sleep", {}, owner="a")
        assert services.jobs.get(waiting.id).starts_in_seconds is None
        services.events.publish(running.id, "progress", JobProgress(eta_seconds=12.5).model_dump(mode="json"))
        assert services.jobs.get(waiting.id).starts_in_seconds == 12.5


@pytest.mark.parametrize(
    ("outlook", "seconds"),
    [
        (Outlook(0, 0, (9.0,), ()), None),  # nobody works
        (Outlook(0, 1, (), ()), 0),
        (Outlook(1, 1, (), ()), None),  # nothing to go by
        (Outlook(2, 1, (10, 20), ()), 30),
        (Outlook(1, 2, (10,), ()), 0),
        (Outlook(2, 2, (10,), ()), 10),
        (Outlook(0, 1, (10,), ((4, None),)), 6),
        (Outlook(0, 1, (10,), ((40, None),)), 0),  # longer than usual: any moment
        (Outlook(0, 1, (), ((4, 3.0),)), 3),
        (Outlook(0, 1, (), ((4, None),)), None),
        (Outlook(1, 1, (10,), ((4, 3.0),)), 13),
        (Outlook(2, 2, (10,), ((1, 3.0), (1, 100.0))), 23),
        (Outlook(0, 1, (10,), ((1, 3.0), (1, 2.0))), 2),  # a worker that died still holds a job
    ],
)
def test_estimates(outlook: Outlook, seconds: float | None) -> None:
    assert outlook.starts_in_seconds == seconds


@settings(deadline=None)
@given(
    before=st.integers(0, 200),
    workers=st.integers(1, 8),
    took=st.lists(st.floats(0.1, 1e4), min_size=1, max_size=50),
    running=st.lists(st.tuples(st.floats(0, 1e4), st.none() | st.floats(0, 1e4)), max_size=8),
)
def test_estimates_grow_with_the_queue_and_shrink_with_workers(
    before: int, workers: int, took: list[float], running: list[tuple[float, float | None]]
) -> None:
    def seconds(before: int, workers: int) -> float:
        found = Outlook(before, workers, tuple(took), tuple(running)).starts_in_seconds
        assert found is not None
        return found

    assert 0 <= seconds(before, workers) <= seconds(before + 1, workers)
    assert seconds(before, workers + 1) <= seconds(before, workers)


def test_a_worker_not_seen_lately_does_not_count(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        scripts = LeaseScripts(client, Keys("t"), WorkerSettings(), lambda: 1_000_000)
        wait(scripts, "1a")
        client.zadd("t:workers", {"here": 1_000_000 - WORKER_SEEN_MS, "gone": 1_000_000 - WORKER_SEEN_MS - 1})
        outlook = scripts.look(["job_1a"])[0].outlook
        assert outlook is not None
        assert outlook.workers == 1
