"""The lease scripts on a real server: single rules, then any schedule at all, on a clock of the test's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from tests.support.redis_server import RedisServer
from worker.keys import Keys
from worker.lease import Identity, Lease, LeaseScripts
from worker.records import JobStatus
from worker.settings import WorkerSettings

TTL = 3000
CAP = 3
ALICE = Identity("node-a", "boot-1", "10-1", 11)
BOB = Identity("node-b", "boot-9", "20-1", 21)


class FakeClock:
    """Milliseconds, moved by hand."""

    def __init__(self) -> None:
        self.now = 1_000_000

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def leases(redis_server: RedisServer, clock: FakeClock) -> Iterator[LeaseScripts]:
    with redis_server.client() as client:
        yield LeaseScripts(client, Keys("t"), WorkerSettings(lease_ttl_s=TTL / 1000, max_charges=CAP), clock)


def claimed(leases: LeaseScripts, who: Identity = ALICE) -> Lease:
    lease = leases.claim("default", who)
    assert lease is not None
    return lease


def test_the_oldest_is_claimed_first_and_once(leases: LeaseScripts) -> None:
    assert leases.enqueue("job_2", "default")
    assert leases.enqueue("job_1", "default")
    assert not leases.enqueue("job_1", "default")
    assert [claimed(leases).job_id, claimed(leases, BOB).job_id] == ["job_1", "job_2"]
    assert leases.claim("default", ALICE) is None


def test_the_same_hint_many_times_claims_once(leases: LeaseScripts) -> None:
    leases.enqueue("job_1", "default")
    granted = [leases.claim("default", ALICE) for _ in range(50)]
    assert sum(lease is not None for lease in granted) == 1


def test_renewing_keeps_a_lease_and_silence_loses_it(leases: LeaseScripts, clock: FakeClock) -> None:
    leases.enqueue("job_1", "default")
    lease = claimed(leases)
    for _ in range(10):
        clock.now += TTL - 1
        assert leases.expired() == []
        assert leases.renew("job_1", lease.fence) == ("held", False)
    clock.now += TTL
    assert leases.expired() == ["job_1"]
    assert leases.reap("job_1", "other", "boot") == ("queued", 1, 1)
    assert leases.renew("job_1", lease.fence) == ("lost", False)
    assert claimed(leases, BOB).fence == lease.fence + 1
    assert leases.renew("job_1", lease.fence) == ("lost", False)


def test_looking_does_not_renew(leases: LeaseScripts, clock: FakeClock) -> None:
    leases.enqueue("job_1", "default")
    claimed(leases)
    clock.now += TTL - 1
    assert leases.renew("job_1", 1, extend=False) == ("held", False)
    clock.now += 2
    assert leases.expired() == ["job_1"]


def test_a_living_lease_is_not_reaped(leases: LeaseScripts, clock: FakeClock) -> None:
    leases.enqueue("job_1", "default")
    claimed(leases)
    clock.now += TTL - 1
    assert leases.reap("job_1", "other", "boot")[0] == "alive"
    assert leases.reap("job_9", "other", "boot")[0] == "gone"


def test_three_deaths_without_progress_are_poison(leases: LeaseScripts) -> None:
    leases.enqueue("job_1", "default")
    verdicts = []
    for _ in range(3):
        verdicts.append(leases.release("job_1", claimed(leases).fence, "died"))
    assert verdicts == [("queued", 1), ("queued", 2), ("poison", 3)]
    assert leases.claim("default", BOB) is None
    assert leases.release("job_1", 3, "died") == ("poison", 3)  # said again, charged once


def test_progress_outages_and_drains_cost_nothing(leases: LeaseScripts) -> None:
    leases.enqueue("job_1", "default")
    for _ in range(5):
        lease = claimed(leases)
        assert leases.mark("job_1", lease.fence)
        assert leases.release("job_1", lease.fence, "died") == ("queued", 0)
        assert leases.release("job_1", claimed(leases).fence, "drained") == ("queued", 0)
        assert leases.release("job_1", claimed(leases).fence, "outage") == ("queued", 0)


def test_a_reboot_of_the_node_is_an_outage(leases: LeaseScripts, clock: FakeClock) -> None:
    leases.enqueue("job_1", "default")
    claimed(leases)
    clock.now += TTL
    assert leases.reap("job_1", ALICE.node, "boot-2") == ("queued", 0, 1)
    claimed(leases)
    clock.now += TTL
    assert leases.reap("job_1", ALICE.node, ALICE.boot) == ("queued", 1, 2)


def test_a_stale_owner_can_do_nothing(leases: LeaseScripts) -> None:
    leases.enqueue("job_1", "default")
    old = claimed(leases)
    leases.release("job_1", old.fence, "drained")
    new = claimed(leases, BOB)
    assert not leases.mark("job_1", old.fence)
    assert leases.release("job_1", old.fence, "died") == ("gone", 0)
    assert leases.raise_fence(old, 9) is None
    assert leases.renew("job_1", new.fence) == ("held", False)


def test_cancel_is_heard_and_beats_a_second_run(leases: LeaseScripts) -> None:
    leases.enqueue("job_1", "default")
    assert leases.cancel("job_1") == "queued"
    lease = claimed(leases)
    assert leases.renew("job_1", lease.fence) == ("held", True)
    assert leases.release("job_1", lease.fence, "died")[0] == "cancelled"
    assert leases.cancel("job_9") == "missing"


def test_a_verdict_comes_again_when_nobody_carried_it_out(leases: LeaseScripts, clock: FakeClock) -> None:
    leases.enqueue("job_1", "default")
    leases.cancel("job_1")
    lease = claimed(leases)
    leases.release("job_1", lease.fence, "died")
    assert leases.renew("job_1", lease.fence)[0] == "lost"
    assert leases.expired() == []
    clock.now += TTL
    assert leases.expired() == ["job_1"]
    assert leases.reap("job_1", "other", "boot")[0] == "cancelled"
    assert leases.settle("job_1", JobStatus.CANCELLED)
    assert not leases.settle("job_1", JobStatus.CANCELLED)
    clock.now += TTL
    assert leases.expired() == []


def test_a_clock_set_back_does_not_freeze_a_lease(leases: LeaseScripts, clock: FakeClock) -> None:
    leases.enqueue("job_1", "default")
    claimed(leases)
    clock.now -= 3_600_000
    assert leases.expired() == ["job_1"]
    assert leases.reap("job_1", "other", "boot")[0] == "alive"
    clock.now += TTL
    assert leases.reap("job_1", "other", "boot")[0] == "queued"


def test_an_adopted_job_waits_two_ttl_for_its_owner(leases: LeaseScripts, clock: FakeClock) -> None:
    assert leases.adopt("job_1", "default", ALICE, fence=4, charged=1, started_ms=5)
    assert not leases.adopt("job_1", "default", ALICE, fence=4, charged=1, started_ms=5)
    clock.now += 2 * TTL - 1
    assert leases.expired() == []
    assert leases.renew("job_1", 4) == ("held", False)
    held = leases.held()
    assert [(each.job_id, each.fence, each.worker, each.pid) for each in held] == [("job_1", 4, "10-1", 11)]


def test_a_forgotten_job_lets_its_owner_go_on(leases: LeaseScripts, redis_server: RedisServer) -> None:
    leases.enqueue("job_1", "default")
    lease = claimed(leases)
    with redis_server.client() as client:
        client.flushall()
        client.hset(Keys("t").job("job_1"), "progress", "{}")  # the owner has told of progress meanwhile
    assert leases.renew("job_1", lease.fence) == ("missing", False)
    assert leases.enqueue("job_1", "default", fence=lease.fence)


def test_time_is_the_servers_own_outside_tests(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        leases = LeaseScripts(client, Keys("t"), WorkerSettings(lease_ttl_s=3))
        leases.enqueue("job_1", "default")
        lease = claimed(leases)
        seconds, _ = client.time()
        assert abs(lease.claimed_at / 1000 - seconds) < 5
        until = client.zscore(Keys("t").leases, "job_1")
        assert until == lease.claimed_at + 3000


class AnySchedule(RuleBasedStateMachine):
    """Workers that claim, renew, die, drain and sleep past their lease; reapers, cancels and flushes in between.

    The model knows what the files of the store would: the attempts, and the one terminal file.
    """

    leases: LeaseScripts
    clock: FakeClock
    flush: Callable[[], None]

    def __init__(self) -> None:
        super().__init__()
        self.flush()
        self.jobs: list[str] = []
        self.terminal: dict[str, JobStatus] = {}
        self.attempts: dict[str, list[tuple[int, int]]] = {}  # (fence, charged), create-once
        self.ended_attempts: dict[str, int] = {}  # fence -> charged after, of the last one
        self.owners: list[tuple[str, int]] = []  # who believes to own what: the living and the sleeping
        self.unproductive_deaths: dict[str, int] = {}

    # -- the world

    @rule()
    @precondition(lambda self: len(self.jobs) < 4)
    def submit(self) -> None:
        job = f"job_{len(self.jobs)}"
        self.jobs.append(job)
        self.attempts[job] = []
        self.unproductive_deaths[job] = 0
        assert self.leases.enqueue(job, "default")

    @rule(who=st.sampled_from([ALICE, BOB]))
    def claim(self, who: Identity) -> None:
        lease = self.leases.claim("default", who)
        if lease is None:
            return
        job = lease.job_id
        if job in self.terminal:
            self.leases.settle(job, self.terminal[job])
            return
        fences = [fence for fence, _ in self.attempts[job]]
        assert lease.fence not in fences, "a fence came twice"
        assert not fences or lease.fence > max(fences)
        assert lease.charged < CAP
        self.attempts[job].append((lease.fence, lease.charged))
        self.owners.append((job, lease.fence))

    @rule(data=st.data())
    @precondition(lambda self: self.owners)
    def renew(self, data: st.DataObject) -> None:
        job, fence = data.draw(st.sampled_from(self.owners))
        state, _ = self.leases.renew(job, fence)
        if state == "lost":
            self.owners.remove((job, fence))
        if state == "held":
            assert fence == max(self.attempts[job])[0], "an old owner was told that it holds the job"

    @rule(data=st.data(), how=st.sampled_from(["died", "drained", "outage"]), productive=st.booleans())
    @precondition(lambda self: self.owners)
    def leave(self, data: st.DataObject, how: str, productive: bool) -> None:
        job, fence = data.draw(st.sampled_from(self.owners))
        if productive:
            self.leases.mark(job, fence)
        verdict, charged = self.leases.release(job, fence, how)  # type: ignore[arg-type]
        self.owners.remove((job, fence))
        self.follow(job, fence, verdict, charged)

    @rule(data=st.data())
    @precondition(lambda self: self.owners)
    def commit(self, data: st.DataObject) -> None:
        job, fence = data.draw(st.sampled_from(self.owners))
        self.owners.remove((job, fence))
        self.terminal.setdefault(job, JobStatus.SUCCEEDED)  # os.link: the first one
        if data.draw(st.booleans(), label="lives to settle"):
            self.leases.settle(job, self.terminal[job])

    @rule(passed=st.sampled_from([1, TTL // 2, TTL, 10 * TTL]))
    def time_passes(self, passed: int) -> None:
        self.clock.now += passed

    @rule()
    def everybody_sleeps_past_the_lease(self) -> None:
        self.clock.now += 2 * TTL
        self.reap()

    @rule(jump=st.sampled_from([-3_600_000, 3_600_000]))
    def clock_is_set(self, jump: int) -> None:
        self.clock.now += jump

    @rule()
    def reap(self) -> None:
        for job in self.leases.expired():
            if job in self.terminal:
                self.leases.settle(job, self.terminal[job])
                continue
            verdict, charged, fence = self.leases.reap(job, "node-c", "boot")
            self.follow(job, fence, verdict, charged)

    @rule(data=st.data())
    @precondition(lambda self: self.jobs)
    def cancel(self, data: st.DataObject) -> None:
        job = data.draw(st.sampled_from(self.jobs))
        if job not in self.terminal and self.leases.cancel(job) == "queued":
            self.terminal[job] = JobStatus.CANCELLED
            self.leases.settle(job, JobStatus.CANCELLED)

    @rule()
    def redis_forgets(self) -> None:
        self.flush()
        for job in self.jobs:  # reconcile, from the files alone
            if job in self.terminal:
                self.leases.settle(job, self.terminal[job])
            elif not self.attempts[job]:
                self.leases.enqueue(job, "default")
            else:
                fence, charged = self.attempts[job][-1]
                if fence == self.ended_attempts.get(job, (0, 0))[0]:
                    self.leases.enqueue(job, "default", fence=fence, charged=self.ended_attempts[job][1])
                else:
                    self.leases.adopt(job, "default", ALICE, fence=fence, charged=charged, started_ms=1)

    def follow(self, job: str, fence: int, verdict: str, charged: int) -> None:
        if verdict == "queued":
            self.ended_attempts[job] = (fence, charged)
        elif verdict in ("poison", "cancelled"):
            assert verdict != "poison" or charged >= CAP
            self.terminal.setdefault(job, JobStatus.FAILED if verdict == "poison" else JobStatus.CANCELLED)
            self.leases.settle(job, self.terminal[job])

    # -- what always holds

    @invariant()
    def at_most_one_holds_a_job(self) -> None:
        holders = [owner for owner in self.owners if self.leases.renew(*owner, extend=False)[0] == "held"]
        assert len(holders) == len({job for job, _ in holders})

    @invariant()
    def charges_stay_under_the_cap(self) -> None:
        for job, attempts in self.attempts.items():
            assert all(charged < CAP for _, charged in attempts), (job, attempts)

    def teardown(self) -> None:
        """Whatever happened: once the world is quiet, a healthy worker brings every job to an end."""
        self.owners.clear()
        for _ in range(40):
            self.clock.now += 2 * TTL
            self.reap()
            lease = self.leases.claim("default", BOB)
            if lease is not None and lease.job_id not in self.terminal:
                self.terminal[lease.job_id] = JobStatus.SUCCEEDED
            if lease is not None:
                self.leases.settle(lease.job_id, self.terminal[lease.job_id])
        assert set(self.terminal) == set(self.jobs), "a job was lost"
        assert self.leases.held() == []
        assert self.leases.expired() == []


def test_any_schedule(redis_server: RedisServer) -> None:
    with redis_server.client() as client:
        fake = FakeClock()
        scripts = LeaseScripts(client, Keys("t"), WorkerSettings(lease_ttl_s=TTL / 1000, max_charges=CAP), fake)

        class Here(AnySchedule):
            leases, clock, flush = scripts, fake, staticmethod(client.flushall)

        run_state_machine_as_test(
            Here,
            settings=settings(
                max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )
