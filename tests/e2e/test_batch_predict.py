"""A zip of pictures against a real service: answered as a job, killed in mid-job, cancelled."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.support.service import Service, wait_for

QUESTION = {"model": "zero-shot", "labels": json.dumps(list("0123456789")), "top_k": "3"}


@pytest.fixture(scope="module")
def pictures(holdout: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(holdout) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def zipped(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def send(service: Service, archive: bytes) -> str:
    files = {"file": ("pictures.zip", archive, "application/zip")}
    answer = service.client.post("/predict/batch", files=files, data=QUESTION)
    assert answer.status_code == 202, answer.text
    found: str = answer.json()["id"]
    return found


def rows(service: Service, job_id: str) -> list[dict[str, Any]]:
    answer = service.client.get(f"/jobs/{job_id}/results")
    assert answer.status_code == 200, answer.text
    return [json.loads(line) for line in answer.iter_lines()]


def kept(service: Service, job_id: str) -> set[str]:
    return {path.name for path in (service.data / "jobs" / job_id).iterdir() if path.suffix != ".json"} - {"attempts"}


def test_rows_are_what_predict_answers(service: Service, pictures: dict[str, bytes]) -> None:
    entries = dict(list(pictures.items())[:40]) | {"broken.png": b"\x89PNG", "notes.txt": b"words"}
    job_id = send(service, zipped(entries))
    job = service.wait_for_status(job_id, "succeeded")
    assert (job["kind"], job["result"]["images"], job["result"]["unreadable"]) == ("predict", 42, 2)
    found = rows(service, job_id)
    assert [row["filename"] for row in found] == list(entries)
    files = [("images", item) for item in entries.items()]
    expected = service.client.post("/predict", files=files, data=QUESTION).json()["predictions"]
    for row, one in zip(found, expected, strict=True):
        assert [t["label"] for t in row["top"]] == [t["label"] for t in one["top"]]
        assert [t["probability"] for t in row["top"]] == pytest.approx([t["probability"] for t in one["top"]], abs=1e-5)
        assert ("error" in row) == ("error" in one)
    table = service.client.get(f"/jobs/{job_id}/results", headers={"Accept": "text/csv"}).text
    assert [line["label"] for line in csv.DictReader(io.StringIO(table, newline=""))] == [
        row["top"][0]["label"] if row["top"] else "" for row in found
    ]
    assert kept(service, job_id) == {"results"}


def test_a_worker_that_is_killed_is_followed_by_one_that_goes_on(service: Service, pictures: dict[str, bytes]) -> None:
    many = {f"{n}/{name}": data for n in range(4) for name, data in pictures.items()}
    many["broken.png"] = b"\x89PNG"
    job_id = send(service, zipped(many))

    def begun() -> list[int]:
        """The worker's process with its children, once some parts are made."""
        if len(list((service.data / "jobs" / job_id).glob("parts/*"))) < 2:
            return []
        return [pid for pid, command in service.processes().items() if "-m worker" in command]

    for pid in wait_for("the first parts", begun):
        psutil.Process(pid).kill()
    job = service.wait_for_status(job_id, "succeeded")
    assert job["attempts"] == 2
    assert job["counters"]["images"] < len(many) == job["result"]["images"]
    assert [row["filename"] for row in rows(service, job_id)] == list(many)
    straight = send(service, zipped(many))
    assert service.wait_for_status(straight, "succeeded")["attempts"] == 1
    for format in ("jsonl", "csv"):
        interrupted, whole = (
            service.client.get(f"/jobs/{one}/results?format={format}").content for one in (job_id, straight)
        )
        assert interrupted == whole, "a death changes no byte"


def test_cancelled_it_leaves_nothing(service: Service, pictures: dict[str, bytes]) -> None:
    many = {f"{n}/{name}": data for n in range(25) for name, data in pictures.items()}
    job_id = send(service, zipped(many))
    wait_for("it to run", lambda: (service.job(job_id)["progress"]["step"] or 0) > 0)
    assert service.client.post(f"/jobs/{job_id}/cancel").status_code == 202
    service.wait_for_status(job_id, "cancelled", timeout_s=30)
    assert service.client.get(f"/jobs/{job_id}/results").status_code == 404
    wait_for("all to be removed", lambda: kept(service, job_id) == set())
