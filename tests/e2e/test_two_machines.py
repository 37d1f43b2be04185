"""API and worker on two machines: nothing is shared but a bucket and a Redis. Each has a folder of its own."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.line import Line, running_line
from tests.support.machines import Machine, api, worker
from tests.support.redis_server import RedisServer
from tests.support.s3_server import any_s3
from tests.support.service import Service, wait_for
from worker.store.s3.bucket import Bucket
from worker.store.s3.connecting import connect

QUICK = {"epochs": 6, "views": 1}


@dataclass
class Two:
    """Both machines, and what they share."""

    api: Service
    worker: Machine
    bucket: Bucket
    line: Line
    settings: dict[str, str]
    folder: Path


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    folder = tmp_path_factory.mktemp("two")
    with any_s3() as server, RedisServer() as redis:
        name = server.make_bucket()
        settings = server.settings(name) | {"NPT_REDIS_URL": redis.url}
        bucket = connect(name, "some/prefix", server.url)
        with (
            running_line(server.url) as line,
            worker(folder / "worker", settings) as at_work,
            api(folder / "api", settings | {"NPT_S3_ENDPOINT": line.url}) as service,
        ):
            yield Two(service, at_work, bucket, line, settings, folder)


@pytest.fixture(scope="module")
def job(two: Two, digits: bytes) -> dict[str, Any]:
    """A tuning that has succeeded."""
    answer = two.api.tune(digits, QUICK)
    assert answer.status_code == 202, answer.text
    return two.api.wait_for_status(answer.json()["id"], "succeeded")


def folders(two: Two) -> set[str]:
    """What the bucket holds."""
    return {one.key.partition("/")[0] for one in two.bucket.list("")}


def pictures(holdout: Path, most: int) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(holdout) as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".png"))
        chosen = names[:: max(1, len(names) // most)][:most]
        return [(name.replace("/", "_"), archive.read(name)) for name in chosen]


def test_a_tuned_model_predicts_on_the_other_machine(two: Two, job: dict[str, Any], holdout: Path) -> None:
    images = pictures(holdout, 20)
    files = [("images", (name, data, "image/png")) for name, data in images]
    answer = two.api.client.post("/predict", files=files, data={"model": job["model_id"]})
    assert answer.status_code == 200, answer.text
    right = sum(
        one["top"][0]["label"] == name.partition("_")[0]
        for (name, _), one in zip(images, answer.json()["predictions"], strict=True)
    )
    assert right >= 10  # two of twenty by chance


def test_every_fact_is_in_the_bucket_and_none_in_a_folder(two: Two, job: dict[str, Any]) -> None:
    assert {"archives", "datasets", "jobs", "models"} <= folders(two)
    for machine in (two.folder / "api", two.folder / "worker"):
        assert {path.name for path in machine.iterdir()} <= {"cache", "features", "run", "uploads", "weights", "work"}
    wait_for("the worker to clear up", lambda: list((two.folder / "worker" / "work").glob("*")) == [])
    assert list((two.folder / "api" / "uploads").glob("*")) == []
    assert not [one.key for one in two.bucket.list(f"jobs/{job['id']}/attempts/0001/")]


def test_the_report_and_the_export_come_from_the_bucket(two: Two, job: dict[str, Any]) -> None:
    report = two.api.client.get(f"/models/{job['model_id']}/report", headers={"Accept": "text/html"})
    assert report.status_code == 200, report.text
    exported = two.api.client.get(f"/models/{job['model_id']}/export")
    assert exported.status_code == 200, exported.text
    with zipfile.ZipFile(io.BytesIO(exported.content)) as archive:
        assert archive.testzip() is None
    sent = {"file": ("model.zip", exported.content, "application/zip")}
    again = two.api.client.post("/models/import", files=sent)
    assert again.status_code == 200, again.text  # the very model is there
    assert again.json()["id"] == job["model_id"]


def test_a_batch_goes_to_the_worker_and_its_rows_come_back(two: Two, job: dict[str, Any], holdout: Path) -> None:
    files = {"file": ("holdout.zip", holdout.read_bytes(), "application/zip")}
    answer = two.api.client.post("/predict/batch", files=files, data={"model": job["model_id"]})
    assert answer.status_code == 202, answer.text
    batch = two.api.wait_for_status(answer.json()["id"], "succeeded")
    rows = two.api.client.get(f"/jobs/{batch['id']}/results", params={"format": "jsonl"})
    assert rows.status_code == 200, rows.text
    assert len(rows.text.splitlines()) == batch["result"]["rows"] > 0
    wait_for(
        "its archive to go",
        lambda: two.bucket.head(f"jobs/{batch['id']}/input.zip") is None,
    )


def test_feedback_is_kept_in_the_bucket(two: Two, job: dict[str, Any], holdout: Path) -> None:
    model = job["model_id"]
    switched = two.api.client.put(f"/models/{model}/feedback", json={"enabled": True, "below": 1.0})
    assert switched.status_code == 200, switched.text
    name, data = pictures(holdout, 1)[0]

    def kept() -> bool:
        two.api.client.post("/predict", files={"images": (name, data, "image/png")}, data={"model": model})
        return bool(two.api.client.get(f"/models/{model}/feedback/items").json()["items"])

    wait_for("a picture to be kept", kept)
    assert two.bucket.head(f"feedback/{model}/items.sqlite3") is not None
    assert two.api.client.delete(f"/models/{model}/feedback").status_code in (200, 204)
    assert two.bucket.head(f"feedback/{model}/items.sqlite3") is None


def test_a_job_whose_machine_burns_down_goes_on_on_another(two: Two, digits: bytes) -> None:
    """Its folder is lost with it: checkpoints are in the bucket."""
    answer = two.api.tune(digits, {"epochs": 400, "views": 1, "seed": 7})
    job_id = answer.json()["id"]
    with worker(two.folder / "second", two.settings, "second") as second:

        def checkpoint() -> list[str]:
            return [one.key for one in two.bucket.list(f"jobs/{job_id}/checkpoint/")]

        wait_for("a checkpoint", checkpoint, 120)
        before = two.api.job(job_id)
        owner = json.loads(two.bucket.get(f"jobs/{job_id}/attempts/0001.json"))["node"]
        (two.worker if owner == "worker" else second).kill()
        done = two.api.wait_for_status(job_id, "succeeded", timeout_s=200)
        assert before["attempts"] == 1
        assert done["attempts"] == 2
        assert json.loads(two.bucket.get(f"jobs/{job_id}/attempts/0002.json"))["node"] != owner
        assert two.api.client.delete(f"/models/{done['model_id']}").status_code in (200, 204)


def test_what_is_deleted_is_gone_from_the_bucket(two: Two, job: dict[str, Any]) -> None:
    assert two.api.client.delete(f"/datasets/{job['dataset_id']}").status_code == 409  # the model needs it
    assert two.api.client.delete(f"/models/{job['model_id']}").status_code in (200, 204)
    assert two.api.client.delete(f"/datasets/{job['dataset_id']}").status_code in (200, 204)
    assert folders(two) & {"archives", "datasets", "models", "feedback", "uploads"} == set()
    answer = two.api.client.get(f"/models/{job['model_id']}")
    assert answer.status_code == 404


def test_a_bucket_that_stops_answering_is_said_and_comes_back(two: Two) -> None:
    two.line.cut()
    try:
        answer = two.api.client.get("/datasets/" + "0" * 64)
        assert answer.status_code == 503, answer.text
        assert answer.json()["code"] == "not-ready"
        assert "Retry-After" in answer.headers
        ready = two.api.client.get("/readyz")
        assert ready.status_code == 503
        assert not ready.json()["checks"]["store"]["ok"]
    finally:
        two.line.mend()
    wait_for("the API to be ready again", lambda: two.api.client.get("/readyz").status_code == 200)
    assert two.api.client.get("/datasets/" + "0" * 64).status_code == 404


def test_nothing_secret_is_logged(two: Two) -> None:
    for text in (two.worker.text(), two.api.log.read_text()):
        assert os.environ["AWS_SECRET_ACCESS_KEY"] not in text
        assert "Signature=" not in text
