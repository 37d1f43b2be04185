"""From a zip to a prediction against a real service: HTTP, Redis protocol, Celery worker, all of it."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

QUICK = {"epochs": 6, "views": 1}


def events_of(service: Service, job_id: str) -> list[tuple[str, dict[str, Any]]]:
    """The whole event stream of a job, until the server ends it."""
    found: list[tuple[str, dict[str, Any]]] = []
    event = ""
    with service.client.stream("GET", f"/jobs/{job_id}/events", timeout=120) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        for line in stream.iter_lines():
            if line.startswith("event:"):
                event = line[6:].strip()
            elif line.startswith("data:"):
                found.append((event, json.loads(line[5:])))
    return found


@pytest.fixture(scope="session")
def tuned(service: Service, digits: bytes) -> dict[str, Any]:
    """A job that tuned the example digits, and its event stream."""
    answer = service.tune(digits, QUICK)
    assert answer.status_code == 202, answer.text
    job_id = answer.json()["id"]
    assert answer.headers["location"].endswith(f"/jobs/{job_id}")
    stream = events_of(service, job_id)
    return {"job": service.wait_for_status(job_id, "succeeded"), "events": stream}


def pictures(holdout: Path, per_class: int) -> list[tuple[str, str, bytes]]:
    with zipfile.ZipFile(holdout) as archive:
        names = sorted(archive.namelist())
        return [
            (name.split("/")[0], name.split("/")[1], archive.read(name))
            for digit in "0123456789"
            for name in [n for n in names if n.startswith(f"{digit}/")][:per_class]
        ]


def predict(service: Service, images: list[tuple[str, str, bytes]], **fields: str) -> dict[str, Any]:
    files = [("images", (name, data, "image/png")) for _, name, data in images]
    answer = service.client.post("/predict", files=files, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def accuracy(images: list[tuple[str, str, bytes]], answer: dict[str, Any]) -> float:
    pairs = zip(images, answer["predictions"], strict=True)
    return sum(p["top"][0]["label"] == label for (label, _, _), p in pairs) / len(images)


def test_the_record_says_what_was_done(tuned: dict[str, Any]) -> None:
    job = tuned["job"]
    assert job["model_id"]
    assert job["dataset_id"]
    assert job["error"] is None
    assert job["attempts"] == 1
    counters = job["counters"]
    assert counters["images_encoded"] + counters["images_cached"] == 160  # other tests know some of these pictures
    assert job["started_at"] <= job["finished_at"]


def test_the_stream_shows_progress_and_ends_with_the_end(tuned: dict[str, Any]) -> None:
    phases = [data.get("progress", data).get("phase") for _, data in tuned["events"]]
    assert "tuning" in phases
    last = tuned["events"][-1][1]
    assert last.get("status") == "succeeded"


def test_tuned_beats_zero_shot_on_pictures_in_no_upload(service: Service, tuned: dict[str, Any], holdout: Path) -> None:
    images = pictures(holdout, 6)
    labels = json.dumps(list("0123456789"))
    zero_shot = accuracy(images, predict(service, images, model="zero-shot", labels=labels))
    with_model = accuracy(images, predict(service, images, model=tuned["job"]["model_id"]))
    assert zero_shot > 0.3
    assert with_model >= zero_shot


def test_a_second_tune_encodes_no_picture_again(service: Service, digits: bytes, tuned: dict[str, Any]) -> None:
    answer = service.tune(digits, QUICK | {"lr": 0.004, "seed": 3, "regularizer": "none"})
    job = service.wait_for_status(answer.json()["id"], "succeeded")
    assert job["counters"]["images_encoded"] == 0
    assert job["counters"]["images_cached"] == 160
    assert job["dataset_id"] == tuned["job"]["dataset_id"]


def test_new_class_names_with_the_learned_prompt(service: Service, tuned: dict[str, Any], holdout: Path) -> None:
    images = pictures(holdout, 1)[:3]
    answer = predict(
        service, images, model=tuned["job"]["model_id"], labels=json.dumps(["zero", "circle", "star"]), top_k="3"
    )
    assert {t["label"] for t in answer["predictions"][0]["top"]} == {"zero", "circle", "star"}
    total = sum(t["probability"] for t in answer["predictions"][0]["top"])
    assert total == pytest.approx(1, abs=1e-4)


def test_one_bad_picture_does_not_sink_the_request(service: Service, tuned: dict[str, Any], holdout: Path) -> None:
    good = pictures(holdout, 1)[:1]
    answer = predict(
        service, [*good, ("?", "broken.png", b"\x89PNG not really"), *good], model=tuned["job"]["model_id"]
    )
    assert answer["predictions"][0]["top"] == answer["predictions"][2]["top"]
    assert "error" in answer["predictions"][1]
    assert answer["predictions"][1]["filename"] == "broken.png"


def test_the_report_says_what_it_was_measured_on(service: Service, tuned: dict[str, Any]) -> None:
    report = service.client.get(f"/models/{tuned['job']['model_id']}/report").json()
    for side in ("zero_shot", "tuned"):
        interval = report["metrics"][side]["accuracy_interval"]
        assert interval[0] <= report["metrics"][side]["accuracy"] <= interval[1]
        assert report["geometry"][side]["equiangularity_mean"] is not None
    assert report["refitted"] is True


def test_the_npt_terms_pull_the_classes_towards_the_frame(
    service: Service, digits: bytes, tuned: dict[str, Any]
) -> None:
    """The same tuning, seed and order with and without them: what differs is the terms alone."""
    plain = service.wait_for_status(service.tune(digits, QUICK | {"regularizer": "none"}).json()["id"], "succeeded")
    with_terms, without = (
        service.client.get(f"/models/{job['model_id']}/report").json()["geometry"]["tuned"]
        for job in (tuned["job"], plain)
    )
    assert with_terms["equiangularity_mean"] < without["equiangularity_mean"]
    assert with_terms["duality"] > without["duality"]


def test_bad_pictures_are_left_out_and_named(service: Service, digits: bytes) -> None:
    out = io.BytesIO(digits)
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("3/truncated.png", b"\x89PNG\r\n\x1a\n garbage")
        archive.writestr("3/notes.txt", b"not a picture")
    job = service.wait_for_status(service.tune(out.getvalue(), QUICK).json()["id"], "succeeded")
    assert any("3/truncated.png" in warning for warning in job["warnings"])


def test_a_hostile_archive_is_refused_with_every_fault(service: Service) -> None:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("../../etc/passwd.png", b"x")
        archive.writestr("/absolute.png", b"x")
    answer = service.tune(out.getvalue())
    assert answer.status_code == 422
    assert answer.headers["content-type"] == "application/problem+json"
    paths = {error["path"] for error in answer.json()["errors"]}
    assert {"../../etc/passwd.png", "/absolute.png"} <= paths


def test_cancel_while_it_tunes(service: Service, digits: bytes) -> None:
    job_id = service.tune(digits, {"epochs": 5000, "views": 1}).json()["id"]
    service.wait_for_status(job_id, "running")
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    job = service.wait_for_status(job_id, "cancelled", timeout_s=20)
    assert job["model_id"] is None
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 409
