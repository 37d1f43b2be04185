"""A clock that is set, a disk that is slow, a Redis that stalls for 20 s: no job is lost, no model made twice."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

import pytest

from tests.faults.record import times
from tests.faults.stack import AFTER, CONFIG, Stack
from tests.support.service import wait_for
from worker.records import JobStatus

pytestmark = pytest.mark.timeout(900)

HOUR_MS = 3_600_000
STALL_S = 20.0
LEASE_MS = 3000


@pytest.mark.parametrize("again", range(times(1, 5)))
@pytest.mark.parametrize(("jump", "words"), [(HOUR_MS, "forward"), (-HOUR_MS, "back")])
def test_the_clock_is_set_by_an_hour(
    stack: Stack, tried: Callable[..., None], jump: int, words: str, again: int
) -> None:
    """The clock of the leases: that of the machine cannot be set by a test."""
    _, learned = stack.reference()
    gates, everywhere = stack.only_worker().gates, [stack.gates(), stack.gates("api")]
    gates.close("tuning", after=AFTER["tuning"])
    job_id, behind = stack.tune(name="in the middle of it"), stack.tune(CONFIG | {"seed": 8}, name="behind")
    gates.wait_held("tuning")
    worker = stack.workers["here"]
    worker.send(signal.SIGSTOP)  # it would renew its lease before anybody saw that it is over
    for one in everywhere:
        one.step_clock(jump)
    if jump > 0:
        wait_for("somebody to see it", lambda: stack.services.jobs.get(job_id).status is JobStatus.QUEUED)
    worker.send(signal.SIGCONT)
    asked = time.monotonic()
    if jump > 0:  # another attempt begins, and the first one gives up
        stack.wait_attempt(job_id, 2)
    seconds = time.monotonic() - asked
    gates.open("tuning")
    jobs = [stack.ended(one) for one in (job_id, behind)]
    for one in everywhere:
        one.step_clock(0)
    after = stack.ended(stack.tune(name="after it was set right"))
    assert [job["status"] for job in (*jobs, after)] == ["succeeded"] * 3
    assert stack.learned(jobs[0]) == learned
    stack.check([job["id"] for job in (*jobs, after)])
    tried(
        10, f"clock of the leases set an hour {words}, in mid-job", "every job ends once", seconds if jump > 0 else None
    )


@pytest.mark.parametrize("again", range(times(1, 5)))
def test_every_write_takes_long(stack: Stack, tried: Callable[..., None], again: int) -> None:
    stack.gates().slow_disk(0.1)
    config = CONFIG | {"epochs": 1}
    asked = time.monotonic()
    job = stack.ended(stack.tune(config, name="slowly"), 300)
    assert (job["status"], job["attempts"]) == ("succeeded", 1)
    stack.check([job["id"]])
    tried(10, "every fsync takes 0.1 s longer", "runs once", time.monotonic() - asked)


def test_writing_down_the_claim_outlasts_the_lease(stack: Stack, tried: Callable[..., None]) -> None:
    """A worker whose disk is slow is not dead: it keeps its lease, and the job is charged nothing."""
    _, learned = stack.reference()
    gates, leases = stack.only_worker().gates, stack.services.leases
    gates.close("before 0001.json", "deaf")
    job_id = stack.tune(name="claimed slowly")
    gates.wait_held("before 0001.json")
    claimed = leases.now_ms()
    wait_for("two leases to be over", lambda: leases.now_ms() - claimed > 2 * LEASE_MS)
    assert [(held.job_id, held.fence) for held in leases.held()] == [(job_id, 1)]
    gates.open("before 0001.json")
    job = stack.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 1)
    assert stack.learned(job) == learned
    stack.check([job_id])
    tried(10, "a disk so slow that writing down a claim outlasts its lease", "runs once, charged nothing")


@pytest.mark.parametrize("again", range(times(1, 5)))
def test_redis_stalls(stack: Stack, tried: Callable[..., None], again: int) -> None:
    _, learned = stack.reference()
    gates = stack.only_worker().gates
    gates.close("tuning", after=AFTER["tuning"])
    running = stack.tune(name="running")
    gates.wait_held("tuning")
    waiting = stack.tune(CONFIG | {"seed": 9}, name="waiting")
    slowest, until = 0.0, time.monotonic() + STALL_S
    stack.redis.pause()
    try:
        while time.monotonic() < until:  # the stall itself; those who ask meanwhile are answered
            asked = time.monotonic()
            assert stack.client.get("/jobs").status_code == 200
            assert stack.client.get(f"/jobs/{running}").json()["status"] == "running"
            slowest = max(slowest, time.monotonic() - asked)
    finally:
        stack.redis.resume()
    gates.open("tuning")
    jobs = [stack.ended(one) for one in (running, waiting)]
    assert [job["status"] for job in jobs] == ["succeeded"] * 2
    assert stack.learned(jobs[0]) == learned
    stack.check([running, waiting])
    tried(10, f"Redis stalls for {STALL_S:.0f} s in mid-job", "answers go on, every job ends once", slowest)
