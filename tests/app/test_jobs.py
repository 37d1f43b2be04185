"""Jobs over HTTP: listing, reading, following, cancelling. No worker runs: the jobs wait in a real queue."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from app import sse
from tests.support.api import Api
from worker.records import JobRecord

CONFIG = {"method": "coop"}


def start(api: Api, name: str = "a job") -> str:
    record, created = api.services.start_job("probe", CONFIG, name=name)
    assert created
    return record.id


def events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Server-sent events as {"event", "id", "data"}."""
    event: dict[str, Any] = {}
    for line in lines:
        if not line:
            if "data" in event:
                yield event
            event = {}
        elif not line.startswith(":"):
            key, _, value = line.partition(":")
            event[key] = json.loads(value) if key == "data" else value.strip()


def follow(api: Api, job_id: str, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
    with api.client.stream("GET", f"/jobs/{job_id}/events", headers=headers, timeout=30) as stream:
        assert stream.status_code == 200
        assert stream.headers["content-type"].startswith("text/event-stream")
        assert stream.headers["cache-control"] == "no-store"
        assert stream.headers["x-accel-buffering"] == "no"
        return list(events(stream.iter_lines()))


def no_stream(api: Api, patience: int = 1) -> bool:
    """Nobody follows a job any more."""
    for _ in range(patience):
        if "npt_event_streams 0.0" in api.client.get("/metrics").text:
            return True
        threading.Event().wait(0.05)
    return False


class TestRecord:
    def test_a_queued_job(self, plain: Api) -> None:
        job_id = start(plain, "mine")
        body = plain.client.get(f"/jobs/{job_id}").json()
        assert body["id"] == job_id
        assert body["status"] == "queued"
        assert body["name"] == "mine"
        assert body["config"] == CONFIG
        assert body["error"] is None
        assert body["progress"]["phase"] is None
        assert body["created_at"].endswith("Z")
        assert isinstance(body["queue_position"], int)

    def test_under_v1(self, plain: Api) -> None:
        job_id = start(plain)
        answer = plain.client.post(f"/v1/jobs/{job_id}/cancel")
        assert answer.status_code == 202
        assert answer.headers["location"] == f"/v1/jobs/{job_id}"

    def test_a_failed_job_tells_its_problem_as_any_answer_does(self, plain: Api) -> None:
        from app.schemas import Job

        record = JobRecord.model_validate(
            {
                "id": "job_x",
                "kind": "tune",
                "status": "failed",
                "created_at": "2026-01-02T03:04:05Z",
                "error": {
                    "type": "non-finite-loss",
                    "title": "Non finite loss",
                    "detail": "It diverged.",
                    "errors": [{"path": "lr", "message": "too high"}],
                },
            }
        )
        error = Job.of(record).model_dump()["error"]
        assert error["type"] == "/problems/non-finite-loss"
        assert error["status"] == 422
        assert error["errors"] == [{"path": "lr", "message": "too high"}]

    def test_an_unknown_job(self, plain: Api) -> None:
        assert plain.client.get("/jobs/job_" + "0" * 26).status_code == 404
        assert plain.client.get("/jobs/job_" + "0" * 26 + "/events").status_code == 404


class TestListing:
    def test_newest_first_page_by_page(self, plain: Api) -> None:
        started = [start(plain, f"page {n}") for n in range(9)][2:]
        found: list[str] = []
        cursor: str | None = None
        while len(found) < 7:
            params: dict[str, Any] = {"limit": 3} | ({"cursor": cursor} if cursor else {})
            body = plain.client.get("/jobs", params=params).json()
            assert len(body["items"]) == 3
            found += [job["id"] for job in body["items"]]
            cursor = body["next_cursor"]
        assert found[:7] == started[::-1]

    def test_by_status(self, plain: Api) -> None:
        job_id = start(plain)
        plain.client.post(f"/jobs/{job_id}/cancel")
        body = plain.client.get("/jobs", params={"status": "cancelled"}).json()
        assert job_id in {job["id"] for job in body["items"]}
        assert {job["status"] for job in body["items"]} == {"cancelled"}
        assert job_id not in {job["id"] for job in plain.client.get("/jobs?status=queued").json()["items"]}

    @pytest.mark.parametrize("cursor", ["nonsense", "../x", "job_"])
    def test_a_cursor_that_never_was_one(self, plain: Api, cursor: str) -> None:
        answer = plain.client.get("/jobs", params={"cursor": cursor})
        assert answer.status_code in (404, 422)


class TestCancel:
    def test_a_queued_job_is_cancelled_at_once_and_only_once(self, plain: Api) -> None:
        job_id = start(plain)
        answer = plain.client.post(f"/jobs/{job_id}/cancel")
        assert answer.status_code == 202
        assert answer.json()["status"] == "cancelled"
        assert answer.headers["location"] == f"/jobs/{job_id}"
        again = plain.client.post(f"/jobs/{job_id}/cancel")
        assert again.status_code == 409
        assert again.json()["code"] == "job-finished"


class TestFollow:
    def test_from_the_record_to_the_end(self, plain: Api) -> None:
        job_id = start(plain)
        found: list[dict[str, Any]] = []
        with plain.client.stream("GET", f"/jobs/{job_id}/events", timeout=30) as stream:
            for event in events(stream.iter_lines()):
                found.append(event)
                if event["event"] == "snapshot":
                    plain.services.events.publish(job_id, "progress", {"phase": "tuning", "step": 1, "total_steps": 9})
                if event["event"] == "progress":
                    threading.Thread(target=plain.services.cancel_job, args=(job_id,)).start()
        assert [event["event"] for event in found if event["event"] != "status"] == ["snapshot", "progress", "end"]
        assert found[0]["data"]["id"] == job_id
        assert found[0]["data"]["status"] == "queued"
        assert found[1]["data"]["phase"] == "tuning"
        assert found[-1]["data"] == plain.client.get(f"/jobs/{job_id}").json()
        assert found[-1]["data"]["status"] == "cancelled"

    def test_an_ended_job_answers_at_once(self, plain: Api) -> None:
        job_id = start(plain)
        plain.services.cancel_job(job_id)
        assert follow(plain, job_id)[-1]["event"] == "end"

    def test_resume_after_the_last_event_seen(self, plain: Api) -> None:
        job_id = start(plain)
        for step in range(5):
            plain.services.events.publish(job_id, "progress", {"phase": "tuning", "step": step})
        plain.services.cancel_job(job_id)
        with plain.services.address.client() as client:
            ids = [entry[0] for entry in client.xrange(plain.services.keys.events(job_id))]
            steps = [
                json.loads(entry[1]["data"]).get("step") for entry in client.xrange(plain.services.keys.events(job_id))
            ]
        after = ids[steps.index(2)]
        found = follow(plain, job_id, {"Last-Event-ID": after})
        assert [event["data"]["step"] for event in found if event["event"] == "progress"] == [3, 4]
        assert found[-1]["event"] == "end"
        assert all(event["event"] != "snapshot" for event in found)

    @pytest.mark.parametrize("last", ["x", "1", "1-", "../../x", "9" * 60, "1-1\u00e9"])
    def test_an_event_id_that_never_was_one(self, plain: Api, last: str) -> None:
        job_id = start(plain)
        answer = plain.client.get(f"/jobs/{job_id}/events", headers=[(b"Last-Event-ID", last.encode())])
        assert answer.status_code == 400

    def test_many_followers_and_none_left_behind(self, plain: Api) -> None:
        job_id = start(plain)
        seen: list[str] = []
        clients = [threading.Thread(target=lambda: seen.append(follow(plain, job_id)[-1]["event"])) for _ in range(10)]
        for client in clients:
            client.start()
        with httpx.stream("GET", f"{plain.url}/jobs/{job_id}/events", timeout=30) as stream:
            next(stream.iter_lines())  # this one leaves without waiting for the end
        plain.services.cancel_job(job_id)
        for client in clients:
            client.join(30)
        assert seen == ["end"] * 10
        assert no_stream(plain, patience=200)

    def test_a_reader_that_stops_reading_is_let_go(self, plain: Api, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(sse, "SEND_TIMEOUT_S", 0.3)
        job_id = start(plain)
        parts = urlsplit(plain.url)
        with socket.create_connection((parts.hostname or "", parts.port or 0), timeout=20) as line:
            line.sendall(f"GET /jobs/{job_id}/events HTTP/1.1\r\nHost: {parts.netloc}\r\n\r\n".encode())
            assert b" 200 " in line.recv(64)
            for number in range(200):
                plain.services.events.publish(job_id, "geometry", {"epoch": number, "text": "x" * 100_000})
                if number > 50 and no_stream(plain):
                    break
            assert no_stream(plain, patience=200)
        assert plain.client.get("/livez").status_code == 200

    def test_head_opens_no_stream(self, plain: Api) -> None:
        assert plain.client.head(f"/jobs/{start(plain)}/events").status_code in (200, 405)
