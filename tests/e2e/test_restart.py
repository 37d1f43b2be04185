"""What is killed comes back, and what was promised is kept."""

from __future__ import annotations

import json
from pathlib import Path

import psutil

from tests.support.service import Service, running_service, wait_for

SLOW = {"epochs": 400, "views": 1, "refit": False}


def find(service: Service, *words: str) -> psutil.Process:
    """The first process of the service whose command line holds every word."""

    def probe() -> psutil.Process | None:
        matches = [pid for pid, command in service.processes().items() if all(w in command for w in words)]
        return psutil.Process(matches[0]) if matches else None

    found: psutil.Process = wait_for(f"a process with {words} in {service.processes()}", probe, 30)
    return found


def test_worker_and_broker_are_killed_in_mid_job_and_the_service_starts_again(tmp_path: Path, digits: bytes) -> None:
    data = tmp_path / "data"
    with running_service(data) as service:
        job_id = service.tune(digits, SLOW).json()["id"]
        wait_for("tuning to begin", lambda: (service.job(job_id)["progress"] or {}).get("phase") == "tuning", 60)
        find(service, "-m", "worker").kill()
        job = service.wait_for_status(job_id, "succeeded")
        assert job["attempts"] >= 2

        second = service.tune(digits, SLOW | {"seed": 1}).json()["id"]
        wait_for("tuning to begin", lambda: (service.job(second)["progress"] or {}).get("phase") == "tuning", 60)
        find(service, "valkey").kill()
        service.wait_for_status(second, "succeeded")

        unfinished = service.tune(digits, SLOW | {"seed": 2}).json()["id"]

    ended = {path.parent.name for path in (data / "jobs").glob("*/end.json")}
    assert second in ended
    assert unfinished not in ended

    with running_service(data) as again:
        models = {m["id"] for m in again.client.get("/models").json()["items"]}
        assert job["model_id"] in models
        finished = again.wait_for_status(unfinished, "succeeded")
        assert finished["model_id"] not in models | {None}
        answer = again.client.get(f"/models/{job['model_id']}")
        assert json.loads(answer.text)["id"] == job["model_id"]
