"""kill -9 of a worker, main process and child, in each phase of a tuning: it goes on, and to the same bits."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.record import CHAOS, times
from tests.faults.stack import AFTER, NOBODY_S, PHASES, Stack, eventually, moment

pytestmark = pytest.mark.timeout(900)

EVERYWHERE = [*PHASES, "before end.json"]
ELSEWHERE = EVERYWHERE if CHAOS else ["tuning", "saved"]


def killed(stack: Stack, phase: str, node: str, lease_ttl_s: float) -> tuple[str, float]:
    """Kill the worker of `here` in that phase and start one of `node`: the job, and how long until it went on."""
    stack.reference()
    gates = stack.only_worker(lease_ttl_s=lease_ttl_s).gates
    stack.forget_work()
    gates.close(phase, "deaf", after=AFTER.get(phase, 0))
    job_id = stack.tune(name=f"killed in {phase}")
    gates.wait_held(phase)
    assert stack.fences(job_id) == [1]
    stack.kill_worker()
    gates.open(phase)
    stack.start_worker(node, lease_ttl_s=lease_ttl_s, wait=False)
    there = stack.wait_worker(node)
    return job_id, stack.wait_attempt(job_id, 2) - there


def is_undisturbed(stack: Stack, job_id: str) -> None:
    """It succeeded, with one model, which is that of a tuning nobody disturbed."""
    reference, learned = stack.reference()
    job = stack.ended(job_id)
    assert job["status"] == "succeeded", job
    assert job["attempts"] == 2
    stack.check([job_id])
    assert job["metrics"] == reference["metrics"]
    assert stack.learned(job) == learned


@pytest.mark.parametrize("again", range(times(1, 5)))
@pytest.mark.parametrize("phase", EVERYWHERE)
def test_on_the_same_node_the_job_goes_on_at_once(
    stack: Stack, tried: Callable[..., None], phase: str, again: int
) -> None:
    job_id, seconds = killed(stack, phase, "here", NOBODY_S)  # not because a lease ran out, then
    is_undisturbed(stack, job_id)
    tried(1, f"worker killed -9 {moment(phase)}, another starts on its node", "same model, to the bit", seconds)


@pytest.mark.parametrize("again", range(times(1, 3)))
@pytest.mark.parametrize("phase", ELSEWHERE)
def test_elsewhere_it_goes_on_when_the_lease_is_over(
    stack: Stack, tried: Callable[..., None], phase: str, again: int
) -> None:
    job_id, seconds = killed(stack, phase, "there", 3.0)
    is_undisturbed(stack, job_id)
    tried(1, f"worker killed -9 {moment(phase)}, another runs elsewhere (lease 3 s)", "same model, to the bit", seconds)


def test_between_the_end_and_the_move_of_the_model_nothing_is_lost(stack: Stack, tried: Callable[..., None]) -> None:
    _, learned = stack.reference()
    gates = stack.only_worker(lease_ttl_s=NOBODY_S).gates
    gates.close("after end.json", "deaf")
    job_id = stack.tune(name="killed before the move")
    gates.wait_held("after end.json")
    stack.kill_worker()
    gates.open("after end.json")
    seconds = eventually("the model to be there", lambda: stack.models_of(job_id))
    job = stack.ended(job_id)
    assert (job["status"], job["attempts"], stack.learned(job)) == ("succeeded", 1, learned)
    stack.check([job_id])
    tried(1, "worker killed -9 between the end of the job and the move of its model", "the model is moved", seconds)
