"""kill -9 of Redis in mid-job, and it comes back empty: nothing that a user was promised is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.record import times
from tests.faults.stack import CONFIG, Stack, eventually

pytestmark = pytest.mark.timeout(900)


def everything(stack: Stack) -> dict[str, set[str]]:
    return {path: stack.listed(path) for path in ("/jobs", "/models", "/datasets")}


@pytest.mark.parametrize("again", range(times(1, 10)))
def test_redis_dies_in_mid_job_and_comes_back_empty(stack: Stack, tried: Callable[..., None], again: int) -> None:
    reference, learned = stack.reference()
    gates = stack.gates()
    gates.close("tuning", after=10)
    running = stack.tune(name="running")
    gates.wait_held("tuning")
    waiting = [stack.tune(CONFIG | {"seed": seed}, name="waiting") for seed in (1, 2)]
    before = everything(stack)
    stack.redis.kill(wipe=True)
    assert everything(stack) == before  # while it is away
    meanwhile = stack.tune(name="asked for meanwhile")  # stored, and queued when Redis is back
    stack.redis.start()
    known = {running, *waiting, meanwhile}
    every = known | before["/jobs"]  # those that ended long ago are read back, too, and may come later
    seconds = eventually("Redis to know every job", lambda: every <= stack.listed("/jobs") and back(stack, known))
    after = everything(stack)
    assert {path: before[path] - after[path] for path in before} == {path: set() for path in before}
    gates.open("tuning")
    jobs = {job_id: stack.ended(job_id) for job_id in known}
    assert {job["status"] for job in jobs.values()} == {"succeeded"}
    assert jobs[running]["attempts"] == 1  # it went on as if nothing had been
    assert (jobs[running]["metrics"], stack.learned(jobs[running])) == (reference["metrics"], learned)
    assert stack.learned(jobs[meanwhile]) == learned
    stack.check(known)
    tried(3, "Redis killed -9 in mid-job, back with nothing in it", "all jobs, models and data sets kept", seconds)


def back(stack: Stack, jobs: set[str]) -> bool:
    """Whether Redis has a state of each of them again."""
    return all(stack.services.redis.hget(stack.services.keys.job(job_id), "status") for job_id in jobs)
