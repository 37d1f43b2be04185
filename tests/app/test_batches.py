"""POST /predict/batch and its results: what is accepted and refused, and rows that are those of POST /predict."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import fields as fields_of
from typing import Any

import httpx
import pytest

from app.access.repository import KeyRepository, Wanted
from app.plans import Question
from app.settings import AppSettings
from tests.support.api import Api, archive, png, running_api, store_model
from tests.support.in_process import runner
from worker.predictions import BatchRequest
from worker.service import Services

LABELS = json.dumps(["red", "green", "blue"])
PICTURES = {f"{colour}/{n}.png": png(colour, n) for n in range(3) for colour in ("red", "blue")}


@pytest.fixture(scope="module")
def model(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[0], name="batched")


@pytest.fixture(scope="module")
def elsewhere(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[1], name="batched elsewhere")


def send(
    api: Api, data: bytes | None = None, key: str | None = None, headers: dict[str, str] | None = None, **fields: Any
) -> httpx.Response:
    sent = {"file": ("pictures.zip", archive(PICTURES) if data is None else data, "application/zip")}
    headers = (headers or {}) | ({"Idempotency-Key": key} if key else {})
    return api.client.post("/predict/batch", files=sent, data=fields, headers=headers)


def job_of(answer: httpx.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    job: dict[str, Any] = answer.json()
    return job


def work(services: Services, job_id: str) -> None:
    """Run whatever waits up to that job."""
    while not services.jobs.files.ended(job_id):
        assert runner(services).run_next() is not None


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    return body


class TestAccepted:
    def test_a_zip_and_an_alias_become_a_job_of_ids(self, api: Api, model: str) -> None:
        api.client.put("/aliases/batch-alias", json={"model": model})
        answer = send(api, model=["batch-alias", model, "zero-shot"], labels=LABELS, top_k="2", reject_below="0.5")
        job = job_of(answer)
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        assert int(answer.headers["retry-after"]) > 0
        assert (job["kind"], job["status"], job["name"], job["dataset_id"]) == (
            "predict",
            "queued",
            "pictures.zip",
            None,
        )
        assert job["config"]["models"] == [model, "zero-shot"]
        assert (job["config"]["top_k"], job["config"]["files"]) == (2, 6)
        assert [one["reject_below"] for one in job["config"]["terms"]] == [0.5, 0.5]
        assert job["id"] in [one["id"] for one in api.client.get("/jobs").json()["items"]]
        assert api.services.jobs.files.input(job["id"]).read_bytes() == archive(PICTURES)
        assert api.parts() == []

    def test_what_an_alias_meant_when_it_was_accepted(self, api: Api, model: str, elsewhere: str) -> None:
        api.client.put("/aliases/batch-moves", json={"model": model})
        job = job_of(send(api, model="batch-moves"))
        api.client.put("/aliases/batch-moves", json={"model": elsewhere})
        work(api.services, job["id"])
        rows = api.client.get(f"/jobs/{job['id']}/results").text.splitlines()
        assert {json.loads(row)["model"] for row in rows} == {model}

    def test_the_zip_itself_as_the_body(self, api: Api, model: str) -> None:
        answer = api.client.post(
            "/v1/predict/batch",
            params={"model": model, "top_k": 1, "filename": "raw.zip"},
            content=archive(PICTURES),
            headers={"Content-Type": "application/zip"},
        )
        job = job_of(answer)
        assert answer.headers["location"].startswith("/v1/jobs/")
        assert (job["name"], job["config"]["models"], job["config"]["top_k"]) == ("raw.zip", [model], 1)

    def test_the_same_key_finds_the_job_after_its_model_is_gone(self, api: Api, towers: tuple[str, str]) -> None:
        model = store_model(api.services, towers[0], name="batched once")
        first = job_of(send(api, key="batch-2", model=model))
        api.client.post(f"/jobs/{first['id']}/cancel")
        assert api.client.delete(f"/models/{model}").status_code == 204
        assert job_of(send(api, key="batch-2", model=model))["id"] == first["id"]
        assert api.parts() == []

    def test_the_same_key_starts_one_job(self, api: Api, model: str) -> None:
        first = job_of(send(api, key="batch-1", model=model))
        again = send(api, key="batch-1", model=model)
        assert again.json()["id"] == first["id"]
        assert again.headers["idempotency-replayed"] == "true"
        refused(send(api, key="batch-1", model=model, top_k="1"), 422, "idempotency-mismatch")
        other = archive(PICTURES | {"more.png": png("red", 99)})
        refused(send(api, other, key="batch-1", model=model), 422, "idempotency-mismatch")
        assert api.parts() == []

    def test_every_field_of_a_question_goes_into_the_job(self) -> None:
        """A field that POST /predict takes and a batch would silently leave out."""
        assert {field.name for field in fields_of(Question)} | {"files"} == set(BatchRequest.model_fields)


class TestRefused:
    @pytest.mark.parametrize(("entries", "told"), [
        ({}, "no file"),
        ({"a.txt": b"x"}, "1 file"),
        ({"../x.png": png()}, "problem"),
        ({"a.png": png(), "A.png": png()}, "problem"),
    ])  # fmt: skip
    def test_archives(self, api: Api, model: str, entries: dict[str, bytes], told: str) -> None:
        body = refused(send(api, archive(entries), model=model), 422, "invalid-archive")
        assert told in body["detail"]
        assert api.parts() == []

    def test_no_archive(self, api: Api, model: str) -> None:
        refused(send(api, b"no zip at all", model=model), 422, "invalid-archive")
        answer = api.client.post("/predict/batch", data={"model": model}, files={"file": (None, "text")})
        assert {one["path"] for one in refused(answer, 422, "invalid-request")["errors"]} == {"file"}

    def test_too_many_files(self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]) -> None:
        with running_api(make_settings(backbone=towers[0], max_entries=5)) as small:
            answer = send(small, model="zero-shot", labels=LABELS)
        assert "5" in refused(answer, 413, "archive-too-large")["detail"]

    @pytest.mark.parametrize(("fields", "status", "code"), [
        ({}, 422, "invalid-request"),
        ({"model": "nobody"}, 404, "unknown-model"),
        ({"model": "zero-shot"}, 422, "no-labels"),
        ({"model": "zero-shot", "labels": LABELS, "backbone": "x"}, 422, "unknown-backbone"),
        ({"model": "zero-shot", "labels": "[1]"}, 422, "invalid-request"),
        ({"model": "zero-shot", "labels": LABELS, "top_k": "0"}, 422, "invalid-request"),
        ({"model": "zero-shot", "labels": LABELS, "surprise": "1"}, 422, "invalid-request"),
        ({"model": "zero-shot", "labels": LABELS, "images": "x"}, 422, "invalid-request"),
    ])  # fmt: skip
    def test_fields(self, api: Api, fields: dict[str, str], status: int, code: str) -> None:
        before = len(api.client.get("/jobs?limit=200").json()["items"])
        refused(send(api, **fields), status, code)
        assert len(api.client.get("/jobs?limit=200").json()["items"]) == before
        assert api.parts() == []

    def test_a_model_whose_backbone_is_not_here(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        with running_api(make_settings(backbone=towers[0])) as small:
            stranger = store_model(small.services, towers[1])
            refused(send(small, model=stranger), 409, "backbone-not-configured")


@pytest.fixture(scope="module")
def done(api: Api, model: str, elsewhere: str) -> str:
    entries = PICTURES | {"notes.txt": b"no picture", "last.png": png("green", 5)}
    job = job_of(send(api, archive(entries), model=[elsewhere, model], top_k="2", reject_below="0.4"))
    work(api.services, job["id"])
    found: str = job["id"]
    return found


def test_a_batch_answers_on_the_terms_that_predict_does(api: Api, towers: tuple[str, str]) -> None:
    stored = {"temperature": 2.0, "count": 40, "source": "held-out", "reject_below": 0.35}
    model = store_model(api.services, towers[0], name="batch-terms", calibration=stored)
    priors = {"red": 0.7, "green": 0.3, "blue": 0}
    api.client.put("/aliases/batch-terms", json={"model": model, "priors": priors})
    asked = {"model": ["batch-terms", "zero-shot"], "labels": '["blue", "green", "red"]'}
    job = job_of(send(api, **asked))
    api.client.put("/aliases/batch-terms", json={"model": model, "priors": None})  # too late for it
    work(api.services, job["id"])
    api.client.put("/aliases/batch-terms", json={"model": model, "priors": priors})
    files = [("images", (name, data)) for name, data in PICTURES.items()]
    results = api.client.post("/predict", files=files, data=asked).json()["results"]
    rows = [json.loads(line) for line in api.client.get(f"/jobs/{job['id']}/results").text.splitlines()]
    for number, result in enumerate(results):
        for row, expected in zip(rows[number::2], result["predictions"], strict=True):
            assert row["rejected"] == expected["rejected"]
            for one, other in zip(row["top"], expected["top"], strict=True):
                assert (one["label"], one["probability"]) == (
                    other["label"],
                    pytest.approx(other["probability"], abs=1e-5),
                )
    told = api.services.jobs.get(job["id"]).result
    assert told is not None
    facts = ("calibrated", "temperature", "reject_below", "reject_below_from", "priors_applied")
    assert [{fact: one[fact] for fact in facts} for one in told["terms"]] == [
        {fact: result[fact] for fact in facts} for result in results
    ]
    assert (results[0]["reject_below_from"], results[0]["priors_from"]) == ("model", "alias")


def test_frequencies_that_fit_no_model_start_no_job(api: Api, model: str) -> None:
    answer = send(api, model=model, priors='{"red": 1, "mauve": 2}')
    refused(answer, 422, "invalid-request")
    assert "'mauve'" in answer.json()["detail"]


class TestResults:
    def test_are_the_answers_of_post_predict(self, api: Api, done: str, model: str, elsewhere: str) -> None:
        rows = [json.loads(line) for line in api.client.get(f"/jobs/{done}/results").text.splitlines()]
        names = [*PICTURES, "notes.txt", "last.png"]
        assert [row["filename"] for row in rows[::2]] == names
        contents = [*PICTURES.values(), b"no picture", png("green", 5)]
        files = [("images", (name, data)) for name, data in zip(names, contents, strict=True)]
        data = {"model": [elsewhere, model], "top_k": "2", "reject_below": "0.4"}
        results = api.client.post("/predict", files=files, data=data).json()["results"]
        for number, result in enumerate(results):
            for row, expected in zip(rows[number::2], result["predictions"], strict=True):
                assert row["model"] == result["model"]
                assert row.keys() - {"model"} == expected.keys()
                assert row["rejected"] == expected["rejected"]
                assert [t["label"] for t in row["top"]] == [t["label"] for t in expected["top"]]
                for one, other in zip(row["top"], expected["top"], strict=True):
                    assert one["probability"] == pytest.approx(other["probability"], abs=1e-5)
                    assert one["similarity"] == pytest.approx(other["similarity"], abs=1e-5)
                if "error" in expected:
                    assert row["error"] == {key: expected["error"][key] for key in ("code", "detail")}

    def test_as_json_lines(self, api: Api, done: str) -> None:
        answer = api.client.get(f"/jobs/{done}/results")
        job = api.client.get(f"/jobs/{done}").json()
        assert answer.headers["content-type"] == "application/jsonl"
        assert answer.headers["content-disposition"] == f'attachment; filename="{done}.jsonl"'
        assert int(answer.headers["content-length"]) == len(answer.content) == job["result"]["files"]["jsonl"]["bytes"]
        assert answer.headers["etag"] == f'"{job["result"]["files"]["jsonl"]["sha256"]}"'
        assert (job["result"]["images"], job["result"]["unreadable"], job["result"]["rows"]) == (8, 1, 16)

    @pytest.mark.parametrize("how", [{"params": {"format": "csv"}}, {"headers": {"Accept": "text/csv"}}])
    def test_as_a_table(self, api: Api, done: str, how: dict[str, Any]) -> None:
        answer = api.client.get(f"/jobs/{done}/results", **how)
        assert answer.headers["content-type"].startswith("text/csv; charset=utf-8")
        table = list(csv.DictReader(io.StringIO(answer.text, newline="")))
        assert len(table) == 16
        assert table[0]["filename"] == "red/0.png"
        assert answer.headers["content-disposition"].endswith('.csv"')

    def test_from_where_a_download_broke_off(self, api: Api, done: str) -> None:
        whole = api.client.get(f"/jobs/{done}/results")
        rest = api.client.get(
            f"/jobs/{done}/results", headers={"Range": "bytes=100-", "If-Range": whole.headers["etag"]}
        )
        assert rest.status_code == 206
        assert rest.content == whole.content[100:]

    def test_that_are_not_there(self, api: Api, model: str) -> None:
        waiting = job_of(send(api, model=model))["id"]
        refused(api.client.get(f"/jobs/{waiting}/results"), 409, "conflict")
        api.client.post(f"/jobs/{waiting}/cancel")
        assert "cancelled" in refused(api.client.get(f"/jobs/{waiting}/results"), 404, "not-found")["detail"]
        other, _ = api.services.start_job("sleep", {"steps": 1, "pause": 0})
        work(api.services, other.id)
        assert "kind 'sleep'" in refused(api.client.get(f"/jobs/{other.id}/results"), 404, "not-found")["detail"]
        refused(api.client.get("/jobs/job_" + "0" * 26 + "/results"), 404, "not-found")
        assert api.client.get(f"/jobs/{waiting}/results?format=xml").status_code == 422

    def test_that_were_removed(self, api: Api, model: str) -> None:
        job_id = job_of(send(api, model=model))["id"]
        work(api.services, job_id)
        api.services.store.delete(f"jobs/{job_id}/results")
        refused(api.client.get(f"/jobs/{job_id}/results"), 410, "gone")


@pytest.fixture(scope="module")
def guarded(make_settings: Callable[..., AppSettings], towers: tuple[str, str]) -> Iterator[Api]:
    with running_api(make_settings(backbone=towers[0], api_keys="a-key-of-enough-letters")) as running:
        yield running


class TestKeys:
    def key(self, api: Api, *scopes: str, **limits: Any) -> dict[str, str]:
        repository: KeyRepository = api.app.state.keyring.repository
        _, key = repository.create(Wanted(scopes, **limits), by="test")
        api.app.state.keyring.refresh()
        return {"X-API-Key": key}

    def test_who_may_predict_follows_the_own_batch_and_no_other(self, guarded: Api) -> None:
        mine, other, tuner = (self.key(guarded, scope) for scope in ("predict", "predict", "tune"))
        job_id = job_of(send(guarded, headers=mine, model="zero-shot", labels=LABELS))["id"]
        paths = (f"/jobs/{job_id}", f"/jobs/{job_id}/results", f"/jobs/{job_id}/events")
        for path in paths:
            assert guarded.client.get(path, headers=other).status_code == 403, path
        assert guarded.client.post(f"/jobs/{job_id}/cancel", headers=other).status_code == 403
        assert guarded.client.get("/jobs", headers=mine).status_code == 403
        work(guarded.services, job_id)
        for path in paths:
            for who in (mine, tuner):
                assert guarded.client.get(path, headers=who).status_code == 200, path
        second = job_of(send(guarded, headers=mine, model="zero-shot", labels=LABELS))["id"]
        assert guarded.client.post(f"/jobs/{second}/cancel", headers=mine).status_code == 202

    def test_other_jobs_of_the_same_key_are_not_meant(self, guarded: Api) -> None:
        both = self.key(guarded, "predict")
        owner = guarded.app.state.keyring.find(both["X-API-Key"]).id
        job, _ = guarded.services.start_job("sleep", {}, owner=owner)
        assert guarded.client.get(f"/jobs/{job.id}", headers=both).status_code == 403

    def test_uploads_count(self, guarded: Api) -> None:
        little = self.key(guarded, "predict", upload_bytes_per_day=100)
        refused(send(guarded, headers=little, model="zero-shot", labels=LABELS), 429, "quota-exceeded")
        assert guarded.parts() == []
