"""Cancel in each phase of a tuning: it stops within a step, leaves no model, and gives its space back."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.faults.record import times
from tests.faults.stack import AFTER, PHASES, Stack, moment
from tests.support.service import wait_for

pytestmark = pytest.mark.timeout(900)

KEPT = {"job.json", "cancel.json", "end.json", "attempts/0001.json"}
"""All that is left of a cancelled job: what was asked, who worked on it, how it ended."""


@pytest.mark.parametrize("again", range(times(1, 5)))
@pytest.mark.parametrize("phase", PHASES)
def test_cancel_stops_it_within_a_step(stack: Stack, tried: Callable[..., None], phase: str, again: int) -> None:
    stack.reference()
    stack.forget_work()
    gates, store = stack.gates(), stack.services.store
    trash = store.names("trash")  # what somebody who was killed did not finish to remove
    # There are no steps any more once everything is saved; who holds it there asks nobody, and the worker does after.
    gates.close(phase, "deaf" if phase == "saved" else "steps", after=AFTER.get(phase, 0))
    job_id = stack.tune(name="cancelled")
    gates.wait_held(phase)
    asked = time.monotonic()
    assert stack.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    if phase == "saved":
        gates.open(phase)
    files = stack.services.jobs.files
    wait_for("the job to end", lambda: files.ended(job_id), every_s=0.01)
    seconds = time.monotonic() - asked
    gates.open(phase)
    job = stack.ended(job_id)
    assert (job["status"], job["model_id"]) == ("cancelled", None)
    stack.check([job_id])
    wait_for("its space to be given back", lambda: {key for key, _ in left(stack, job_id)} == KEPT)
    assert store.names("trash") == trash
    tried(9, f"cancelled {moment(phase)}", "cancelled, no model, space given back", seconds)


def left(stack: Stack, job_id: str) -> list[tuple[str, int]]:
    place = f"jobs/{job_id}/"
    return [(key.removeprefix(place), size) for key, size in stack.services.store.walk(place.rstrip("/"))]


def test_a_waiting_job_is_cancelled_at_once(stack: Stack, tried: Callable[..., None]) -> None:
    gates = stack.gates()
    gates.close("tuning")
    first = stack.tune(name="in front")
    gates.wait_held("tuning")
    behind = stack.tune(name="behind")
    asked = time.monotonic()
    assert stack.client.post(f"/jobs/{behind}/cancel").status_code == 202
    assert stack.services.jobs.files.ended(behind)
    tried(9, "cancelled while it waits", "cancelled, no model, space given back", time.monotonic() - asked)
    gates.open("tuning")
    assert stack.ended(first)["status"] == "succeeded"
    stack.check([first, behind])
