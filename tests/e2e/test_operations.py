"""What an operator sees of one tuning on a real service: its lines in the log, its numbers in the metrics."""

from __future__ import annotations

import json
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.service import Service, wait_for
from worker.tally import PHASES

QUICK = {"epochs": 1, "views": 1}
REQUEST = "abc.order-4711"
ROUNDS = ("retention", "reaper", "reconcile", "recovery", "usage", "supervise", "children", "backbones")
BESIDE = ("app.", *(f"worker.{name}" for name in ROUNDS))
"""Who writes lines while a job runs that are not about it: the API, the warm-up, and what does its rounds."""


def lines_of(service: Service) -> list[dict[str, Any]]:
    """Every line of the log that one of our processes wrote."""
    found = []
    for text in service.log.read_text().splitlines():
        if text.startswith("{"):
            found.append(json.loads(text))
    return found


@pytest.fixture(scope="module")
def job(service: Service, digits: bytes) -> dict[str, Any]:
    answer = service.tune(digits, QUICK, **{"X-Request-ID": REQUEST})
    assert answer.status_code == 202, answer.text
    assert answer.headers["x-request-id"] == REQUEST
    ended = service.wait_for_status(answer.json()["id"], "succeeded")

    def told() -> bool:
        lines = [line for line in lines_of(service) if line.get("request") == REQUEST]
        stored = any(line.get("action") == "model.create" for line in lines)
        return stored and {"request", "job ended"} <= {line["event"] for line in lines}

    wait_for("the last lines of the job", told)
    return ended


def test_a_request_is_found_in_the_app_and_in_the_worker(service: Service, job: dict[str, Any]) -> None:
    mine = [line for line in lines_of(service) if line.get("request") == REQUEST]
    told = {(line["logger"], line["event"]) for line in mine}
    assert ("app.request", "request") in told
    assert ("worker.runner", "job started") in told
    assert ("worker.jobs", "job ended") in told
    changes = {line["action"]: line for line in mine if line["event"] == "change"}
    assert {"dataset.create", "job.start", "model.create"} >= set(changes) >= {"job.start", "model.create"}
    assert changes["job.start"]["object"] == job["id"]
    assert changes["model.create"]["object"] == job["model_id"]


def test_every_line_of_a_job_names_it_and_its_attempt(service: Service, job: dict[str, Any]) -> None:
    lines = lines_of(service)
    begin = next(n for n, line in enumerate(lines) if line["event"] == "job started" and line["job"] == job["id"])
    end = next(n for n, line in enumerate(lines) if line["event"] == "job ended" and line.get("job") == job["id"])
    within = [line for line in lines[begin : end + 1] if not line["logger"].startswith(BESIDE)]
    assert {"model stored", "job started", "job ended"} <= {line["event"] for line in within}
    assert {(line.get("job"), line.get("attempt"), line.get("request")) for line in within} == {(job["id"], 1, REQUEST)}


def test_a_request_without_an_id_is_given_one(service: Service) -> None:
    given = service.client.get("/jobs", headers={"X-Request-ID": "two words"}).headers["x-request-id"]

    def told() -> list[str]:  # the line is written once the answer has gone out
        return [line["path"] for line in lines_of(service) if line.get("request") == given]

    wait_for("the line of the request", told)
    assert told() == ["/jobs"]


def numbers(service: Service) -> dict[tuple[str, ...], float]:
    """Every sample: its name and the values of its labels, in the order of their names."""
    families = text_string_to_metric_families(service.client.get("/metrics").text)
    return {
        (sample.name, *(sample.labels[name] for name in sorted(sample.labels))): sample.value
        for family in families
        for sample in family.samples
    }


def test_a_tuning_is_counted_once_by_kind_and_phase(service: Service, job: dict[str, Any], digits: bytes) -> None:
    before = numbers(service)
    again = service.tune(digits, QUICK | {"seed": 3}).json()
    service.wait_for_status(again["id"], "succeeded")
    after = numbers(service)

    def rise(*key: str) -> float:
        return after[key] - before.get(key, 0)

    assert rise("npt_jobs_finished_total", "tune", "succeeded") == 1
    assert rise("npt_job_duration_seconds_count", "tune", "succeeded") == 1
    assert rise("npt_job_wait_seconds_count", "tune") == 1
    phases = {key[2] for key in after if key[0] == "npt_job_phase_duration_seconds_count" and key[1] == "tune"}
    assert {"unpacking", "encoding", "tuning", "evaluating"} <= phases <= PHASES
    assert rise("npt_job_phase_duration_seconds_count", "tune", "tuning") == 1
    spent = sum(rise("npt_job_phase_duration_seconds_sum", "tune", phase) for phase in phases)
    assert 0 < spent <= rise("npt_job_duration_seconds_sum", "tune", "succeeded") + 0.01
    assert after["npt_encoded_images_total", "worker"] > 0
    assert rise("npt_encoded_images_total", "worker") == 0  # the same images, looked at before
    assert rise("npt_cache_requests_total", "features", "hit") > 0
