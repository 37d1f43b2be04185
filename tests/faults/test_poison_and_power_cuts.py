"""A job that kills its worker is given up after three charges; one that loses the power three times is charged none."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.faults.stack import Stack

pytestmark = pytest.mark.timeout(900)


def test_a_job_that_always_kills_its_worker_is_given_up_and_the_queue_goes_on(
    stack: Stack, tried: Callable[..., None]
) -> None:
    stack.gates().close("unpacking", "die", only="poison")
    bad, good = stack.tune(name="poison"), stack.tune(name="healthy")
    failed, done = stack.ended(bad), stack.ended(good)
    assert (failed["status"], failed["error"]["code"], failed["attempts"]) == ("failed", "poison", 3)
    assert "died 3 times" in failed["error"]["detail"]
    assert "Memory may be short" in failed["error"]["detail"]  # what to do
    assert (done["status"], done["attempts"]) == ("succeeded", 1)
    stack.check([bad, good])
    tried(2, "a job kills its worker before any checkpoint, every time", "given up after 3 charges, the next runs")


def test_three_power_cuts_charge_a_healthy_job_nothing(stack: Stack, tried: Callable[..., None]) -> None:
    reference, learned = stack.reference()
    stack.kill_everything()
    stack.boot = "boot-0"  # nobody here can end the machine: its boot is what the parts are told
    stack.start(ready=False)
    gates = stack.gates()
    gates.close("unpacking", "deaf")
    job_id = stack.tune(name="unlucky")
    for cut in (1, 2, 3):
        gates.wait_held("unpacking")
        stack.kill_everything(wipe=cut == 2)  # and once what Redis had not written is all of it
        stack.boot = f"boot-{cut}"
        (gates.folder / "unpacking.held").unlink()
        stack.start(ready=False)
        stack.wait_attempt(job_id, cut + 1)
    gates.open("unpacking")
    job = stack.ended(job_id)
    files = stack.services.jobs.files
    assert (job["status"], job["attempts"]) == ("succeeded", 4)
    assert [files.attempt(job_id, fence).charged for fence in (1, 2, 3, 4)] == [0, 0, 0, 0]
    ends = [files.attempt_end(job_id, fence) for fence in (1, 2, 3)]
    assert [(end.outcome, end.charged) for end in ends if end] == [("outage", 0)] * 3
    assert (job["metrics"], stack.learned(job)) == (reference["metrics"], learned)
    stack.check([job_id])
    tried(2, "power cut in the middle of a healthy job", "charged nothing, same model", tried=3)
