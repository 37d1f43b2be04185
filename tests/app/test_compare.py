"""POST /compare and its answer: what is accepted, what is refused; the work itself is seen end to end."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.api import Api, coloured_zip, store_model
from tests.support.in_process import runner


@pytest.fixture(scope="module")
def dataset(api: Api) -> str:
    answer = api.client.post("/datasets?audit=false", files={"file": ("c.zip", coloured_zip(4, first_seed=7000))})
    found: str = answer.json()["id"]
    return found


@pytest.fixture(scope="module")
def model(api: Api) -> str:
    return store_model(api.services, api.settings.backbone_entries[0], name="compared")


def ask(api: Api, data: bytes | None = None, key: str | None = None, **fields: Any) -> httpx.Response:
    files = {"dataset": ("x.zip", data, "application/zip")} if data is not None else None
    return api.client.post("/compare", files=files, data=fields, headers={"Idempotency-Key": key} if key else None)


def faults(answer: httpx.Response, code: str = "invalid-request") -> dict[str, str]:
    assert answer.status_code == 422, answer.text
    assert answer.json()["code"] == code
    return {fault["path"]: fault["message"] for fault in answer.json()["errors"]}


def test_a_zip_and_an_alias_become_a_job_of_ids(api: Api, model: str) -> None:
    api.client.put("/aliases/compared-alias", json={"model": model})
    answer = ask(api, coloured_zip(3, first_seed=7100), model=["compared-alias", model])
    assert answer.status_code == 202, answer.text
    job = answer.json()
    assert answer.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["config"]["models"]) == ("compare", [model])
    assert job["config"].items() >= {"split": None, "among": "own", "seen": "leave-out"}.items()
    assert api.client.get(f"/datasets/{job['dataset_id']}").json()["images"] == 9
    early = api.client.get(f"/jobs/{job['id']}/comparison")
    assert early.status_code == 409
    assert "queued" in early.json()["detail"]
    held = api.client.delete(f"/models/{model}")  # the alias, or the job
    assert held.status_code == 409
    api.client.post(f"/jobs/{job['id']}/cancel")


def test_the_same_request_with_the_same_key_is_one_job(api: Api, dataset: str, model: str) -> None:
    first = ask(api, key="compare-1", dataset_id=dataset, model=model)
    again = ask(api, key="compare-1", dataset_id=dataset, model=model)
    assert (first.status_code, again.status_code) == (202, 202)
    assert again.json()["id"] == first.json()["id"]
    assert again.headers["idempotency-replayed"] == "true"
    other = ask(api, key="compare-1", dataset_id=dataset, model=model, seen="keep")
    assert other.status_code == 422


def test_a_request_is_replayed_after_its_model_is_gone(api: Api, dataset: str) -> None:
    model = store_model(api.services, api.settings.backbone_entries[0], name="compared once")
    first = ask(api, key="compare-2", dataset_id=dataset, model=model)
    api.client.post(f"/jobs/{first.json()['id']}/cancel")
    assert api.client.delete(f"/models/{model}").status_code == 204
    again = ask(api, key="compare-2", dataset_id=dataset, model=model)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    api.client.post(f"/jobs/{first.json()['id']}/cancel")


def test_every_fault_is_told_at_once(api: Api, dataset: str) -> None:
    found = faults(ask(api, split="dev", among="all", seen="yes", models="x"))
    assert set(found) == {"models", "dataset", "model", "split", "among", "seen"}
    assert "one of test, val, train" in found["split"]
    assert "one of own, dataset" in found["among"]
    assert set(faults(ask(api, dataset_id=dataset, model=["m"] * 17))) == {"model"}
    both = faults(ask(api, coloured_zip(2), dataset_id=dataset, model="m"))
    assert "cannot be combined" in both["dataset_id"]
    assert "must be a file" in faults(ask(api, dataset="x.zip", model="m"))["dataset"]


def test_what_is_not_there_is_named(api: Api, dataset: str, model: str) -> None:
    nobody = ask(api, dataset_id=dataset, model=[model, "nobody"])
    assert (nobody.status_code, nobody.json()["code"]) == (404, "unknown-model")
    assert "'nobody'" in nobody.json()["detail"]
    assert ask(api, dataset_id="0" * 64, model=model).status_code == 404
    assert api.client.get("/jobs/job_00000000000000000000000000/comparison").status_code == 404


def test_a_job_of_another_kind_has_no_comparison(api: Api, dataset: str) -> None:
    job = api.client.post(f"/datasets/{dataset}/audit").json()
    answer = api.client.get(f"/jobs/{job['id']}/comparison")
    assert answer.status_code == 404
    assert "of kind 'audit'" in answer.json()["detail"]
    api.client.post(f"/jobs/{job['id']}/cancel")


def test_the_comparison_of_a_job_that_was_worked_on(api: Api, dataset: str, model: str) -> None:
    job = ask(api, dataset_id=dataset, model=model).json()
    while api.client.get(f"/jobs/{job['id']}").json()["status"] == "queued":
        assert runner(api.services).run_next() is not None
    done = api.client.get(f"/jobs/{job['id']}").json()
    assert done["status"] == "succeeded", json.dumps(done["error"])
    found = api.client.get(f"/jobs/{job['id']}/comparison")
    assert found.status_code == 200, found.text
    body = found.json()
    assert body["dataset"]["images"] == 12
    assert {one["name"] for one in body["contestants"]} == {model, "zero-shot"}
    told = next(one for one in body["contestants"] if one["name"] == model)
    assert (told["title"], told["method"]) == ("compared", "coop")
    assert done["metrics"]["best"] == body["best"][0]
    assert body["test"]["words"]


def test_a_form_of_too_many_fields_says_so(api: Api, dataset: str) -> None:
    answer = ask(api, dataset_id=dataset, model=["m"] * 50)
    assert (answer.status_code, answer.json()["detail"]) == (400, "The form has over 32 fields.")


def test_the_comparison_is_a_page_for_browsers(api: Api, dataset: str, model: str) -> None:
    job = ask(api, dataset_id=dataset, model=model).json()
    while api.client.get(f"/jobs/{job['id']}").json()["status"] == "queued":
        assert runner(api.services).run_next() is not None
    url = f"/jobs/{job['id']}/comparison"
    page = api.client.get(url, headers={"Accept": "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8"})
    assert (page.status_code, page.headers["vary"]) == (200, "Accept")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "compared v1" in page.text
    assert api.client.get(url, params={"format": "html"}).text == page.text
    assert api.client.get(url, headers={"Accept": "*/*"}).json()["best"]
    assert api.client.get(url, params={"format": "pdf"}).status_code == 422
