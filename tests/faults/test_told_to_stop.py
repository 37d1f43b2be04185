"""SIGTERM: the API finishes what it answers, the worker hands its job back; no process and no lock is left."""

from __future__ import annotations

import fcntl
import signal
import threading
import time
from collections.abc import Callable

import httpx
import pytest

from tests.faults.record import times
from tests.faults.stack import AFTER, Stack
from tests.support.service import wait_for
from worker.identity import process_name

pytestmark = pytest.mark.timeout(900)


def held_locks(stack: Stack) -> list[str]:
    """Locks of the store that somebody still holds."""
    held = []
    for path in (stack.data / "run" / "locks").iterdir():
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.name)
    return held


@pytest.mark.parametrize("again", range(times(1, 5)))
@pytest.mark.parametrize("phase", ["encoding", "tuning", "evaluating"])
def test_the_worker_keeps_a_checkpoint_and_hands_its_job_back(
    stack: Stack, tried: Callable[..., None], phase: str, again: int
) -> None:
    reference, learned = stack.reference()
    stack.forget_work()
    gates, worker = stack.gates(), stack.workers["here"]
    gates.close(phase, after=AFTER.get(phase, 0))
    job_id = stack.tune(name="handed back")
    gates.wait_held(phase)
    said, name = worker.listen(), process_name(worker.process.pid)
    code, seconds = worker.terminate()
    assert code == 0
    del stack.workers["here"]
    gates.open(phase)
    end = stack.services.jobs.files.attempt_end(job_id, 1)
    assert end is not None
    assert (end.outcome, end.charged) == ("drained", 0)
    assert (stack.services.jobs.files.load_checkpoint(job_id) is not None) == (phase != "encoding")
    assert not said("did not drain")
    assert list((stack.data / "run" / "workers").glob(f"{name}.*")) == []
    assert held_locks(stack) == []
    assert stack.job(job_id)["status"] == "queued"
    stack.start_worker()
    job = stack.ended(job_id)
    assert (job["status"], job["attempts"]) == ("succeeded", 2)
    assert (job["metrics"], stack.learned(job)) == (reference["metrics"], learned)
    stack.check([job_id])
    tried(8, f"SIGTERM to the worker while {phase}", "handed back uncharged, goes on to the same bits", seconds)


@pytest.mark.parametrize("again", range(times(1, 5)))
def test_the_api_answers_what_it_has_begun(stack: Stack, tried: Callable[..., None], again: int) -> None:
    model = stack.reference()[0]["model_id"]
    gates, api, answers = stack.gates("api"), stack.api, []
    assert api is not None
    gates.close("predict", "deaf")

    def ask() -> None:
        with httpx.Client(base_url=stack.url, timeout=60) as client:
            answers.append(stack.predict(model, 8, client=client))

    threads = [threading.Thread(target=ask, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    wait_for("four requests to be under way", lambda: gates.waiting("predict") == 4)
    asked = time.monotonic()
    api.process.send_signal(signal.SIGTERM)
    wait_for("the API to let nobody in any more", lambda: refuses(stack.url), every_s=0.01)
    assert answers == []
    gates.open("predict")
    code = api.process.wait(60)
    seconds = time.monotonic() - asked
    for thread in threads:
        thread.join(60)
    assert code == 0
    assert [(answer.status_code, len(answer.json()["predictions"])) for answer in answers] == [(200, 8)] * 4
    stack.api = None
    assert held_locks(stack) == []
    stack.start_api(ready=False)
    tried(8, "SIGTERM to the API while it answers 4 clients", "all four answered in full, exit code 0", seconds)


def refuses(url: str) -> bool:
    try:
        httpx.get(f"{url}/livez", timeout=5)
    except httpx.TransportError:
        return True
    return False
