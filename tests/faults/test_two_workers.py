"""Two workers and one job: it runs once, and where it ran twice after all the first commit wins."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from tests.faults.record import times
from tests.faults.stack import Stack, eventually

pytestmark = pytest.mark.timeout(900)

COMMIT = "before end.json"


def test_a_job_redelivered_while_it_runs_runs_once(stack: Stack, tried: Callable[..., None]) -> None:
    gates = stack.gates()
    gates.close("tuning")
    job_id = stack.tune(name="redelivered")
    gates.wait_held("tuning")
    stack.start_worker("there")
    hints = times(50, 500)
    for _ in range(hints):
        stack.services.queue.hint(job_id)
    after = stack.tune(name="behind it")  # the other worker has seen every hint that stood before this one
    assert stack.ended(after)["status"] == "succeeded"
    assert stack.fences(job_id) == [1]
    gates.open("tuning")
    job = stack.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 1)
    stack.check([job_id, after])
    tried(6, "a running job is delivered again, to two workers", "runs once", tried=hints)


def overtaken(stack: Stack) -> str:
    """A job whose worker sleeps just before its commit, past its lease, while another worker has taken the job over."""
    here = stack.only_worker().gates  # its lease is 3 s
    here.close(COMMIT, "deaf")
    job_id = stack.tune(name="overtaken")
    here.wait_held(COMMIT)
    stack.workers["here"].send(signal.SIGSTOP)
    stack.start_worker("there")
    stack.wait_attempt(job_id, 2)
    return job_id


@pytest.mark.parametrize("again", range(times(1, 10)))
def test_who_wakes_after_the_other_has_committed_discards_itself(
    stack: Stack, tried: Callable[..., None], again: int
) -> None:
    _, learned = stack.reference()
    job_id = overtaken(stack)
    job = stack.ended(job_id)
    end = stack.services.jobs.files.end(job_id)
    assert end is not None
    assert end.fence == 2
    said = stack.workers["here"].listen()
    stack.gates().open(COMMIT)
    stack.workers["here"].send(signal.SIGCONT)
    next_one = stack.ended(stack.tune(name="after it"))  # whoever takes it has come back from the job before
    seconds = eventually("the sleeper to say that it was late", lambda: said("result discarded"))
    assert stack.job(job_id) == job
    assert stack.learned(job) == learned
    stack.check([job_id, next_one["id"]])
    tried(6, "worker asleep past its lease, wakes after the other committed", "discards itself", seconds)


@pytest.mark.parametrize("again", range(times(1, 10)))
def test_who_wakes_and_commits_first_wins_and_the_other_discards_itself(
    stack: Stack, tried: Callable[..., None], again: int
) -> None:
    _, learned = stack.reference()
    there = stack.gates("there")
    there.close(COMMIT, "deaf")
    job_id = overtaken(stack)
    there.wait_held(COMMIT)
    stack.gates().open(COMMIT)
    stack.workers["here"].send(signal.SIGCONT)
    job = stack.ended(job_id)
    end = stack.services.jobs.files.end(job_id)
    assert end is not None
    assert end.fence == 1
    said = stack.workers["there"].listen()
    there.open(COMMIT)
    seconds = eventually("the other to say that it was late", lambda: said("result discarded"))
    assert stack.job(job_id)["model_id"] == job["model_id"]
    assert stack.learned(job) == learned
    stack.check([job_id])
    tried(6, "worker asleep past its lease, wakes and commits before the other", "first commit wins", seconds)
