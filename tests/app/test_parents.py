"""POST /tune with a parent: what is resolved, filled in and refused in the request."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.api import Api, coloured_zip, store_model

GHOST = "model_" + "0" * 26


@pytest.fixture(scope="module")
def dataset(api: Api) -> str:
    answer = api.client.post("/datasets", files={"file": ("c.zip", coloured_zip(4, first_seed=3100))})
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


@pytest.fixture(scope="module")
def parent(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[1], name="parent", method="kgcoop", n_ctx=2, weight=3.0)


def tune(api: Api, dataset: str, config: dict[str, Any], key: str | None = None) -> httpx.Response:
    data = {"dataset_id": dataset, "config": json.dumps(config)}
    return api.client.post("/tune", data=data, headers={"Idempotency-Key": key} if key else None)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    return body


def test_what_is_left_out_is_the_parents(api: Api, dataset: str, parent: str) -> None:
    answer = tune(api, dataset, {"parent": parent, "epochs": 2})
    assert answer.status_code == 202, answer.text
    config = answer.json()["config"]
    assert (config["method"], config["backbone"], config["epochs"]) == ("kgcoop", "other", 2)
    assert (config["method_config"]["n_ctx"], config["method_config"]["weight"]) == (2, 3.0)
    assert (config["parent"], config["keep_old"]) == (parent, "auto")


def test_an_alias_is_resolved_once(api: Api, dataset: str, parent: str, towers: tuple[str, str]) -> None:
    other = store_model(api.services, towers[0], name="parent")
    api.client.put("/aliases/to-go-on-from", json={"model": parent})
    first = tune(api, dataset, {"parent": "to-go-on-from"}, key="alias-key")
    assert first.json()["config"]["parent"] == parent
    api.client.put("/aliases/to-go-on-from", json={"model": other})
    again = tune(api, dataset, {"parent": "to-go-on-from"}, key="alias-key")
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    refused(tune(api, dataset, {"parent": "to-go-on-from", "seed": 2}, key="alias-key"), 422, "idempotency-mismatch")
    assert tune(api, dataset, {"parent": "to-go-on-from"}).json()["config"]["method"] == "coop"


def test_a_request_is_replayed_after_its_parent_is_gone(api: Api, dataset: str, towers: tuple[str, str]) -> None:
    model = store_model(api.services, towers[0], name="deleted later")
    first = tune(api, dataset, {"parent": model}, key="parent-gone")
    api.client.post(f"/jobs/{first.json()['id']}/cancel")
    assert api.client.delete(f"/models/{model}").status_code == 204
    again = tune(api, dataset, {"parent": model}, key="parent-gone")
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    assert again.headers["idempotency-replayed"] == "true"
    refused(tune(api, dataset, {"parent": model, "seed": 2}, key="parent-gone"), 422, "idempotency-mismatch")
    refused(tune(api, dataset, {"parent": model}), 404, "not-found")


def test_a_parent_stays_while_a_job_needs_it(api: Api, dataset: str, towers: tuple[str, str]) -> None:
    model = store_model(api.services, towers[0], name="needed")
    api.client.put("/aliases/needed", json={"model": model})
    job = tune(api, dataset, {"parent": "needed"}).json()
    assert api.client.delete("/aliases/needed").status_code == 204
    body = refused(api.client.delete(f"/models/{model}"), 409, "conflict")
    assert job["id"] in body["detail"]
    assert api.client.post(f"/jobs/{job['id']}/cancel").status_code == 202
    assert api.client.delete(f"/models/{model}").status_code == 204


@pytest.mark.parametrize("name", [GHOST, "no-such-alias", "", "../../etc", "model_", "x" * 150])
def test_a_parent_that_is_not_there(api: Api, dataset: str, name: str) -> None:
    body = refused(tune(api, dataset, {"parent": name}), 404, "not-found")
    assert body["detail"].startswith("`parent` cannot be used: ")
    assert [one["path"] for one in body["errors"]] == ["parent"]


@pytest.mark.parametrize(
    ("config", "code", "path", "words"),
    [
        ({"method": "coop"}, "incompatible-config", "method", ("'coop'", "'kgcoop'")),
        ({"method_config": {"n_ctx": 4}}, "incompatible-config", "method_config.n_ctx", ("4", "2")),
        ({"backbone": "tiny"}, "incompatible-config", "backbone", ("'tiny'", "'other'")),
        ({"class_names": {"red": "crimson"}}, "invalid-config", "class_names.red", ("'crimson'", "'red'")),
        ({"class_names": {"pink": "rose"}}, "invalid-config", "class_names.pink", ("pink",)),
        ({"keep_old": "by heart"}, "invalid-config", "keep_old", ("null-space",)),
        ({"max_old_loss": 2}, "invalid-config", "max_old_loss", ("2",)),
    ],
)
def test_what_does_not_fit_names_both(
    api: Api, dataset: str, parent: str, config: dict[str, Any], code: str, path: str, words: tuple[str, ...]
) -> None:
    body = refused(tune(api, dataset, {"parent": parent, **config}), 422, code)
    assert [one["path"] for one in body["errors"]] == [path]
    assert all(word in body["detail"] for word in words)


@pytest.mark.parametrize("parent", [3, ["model"], {"id": "model"}, True])
def test_a_parent_that_is_no_name(api: Api, dataset: str, parent: Any) -> None:
    body = refused(tune(api, dataset, {"parent": parent}), 422, "invalid-config")
    assert [one["path"] for one in body["errors"]] == ["parent"]


def test_settings_for_old_classes_need_a_parent(api: Api, dataset: str) -> None:
    body = refused(tune(api, dataset, {"keep_old": "replay", "max_old_loss": 0.1}), 422, "invalid-config")
    assert {one["path"] for one in body["errors"]} == {"keep_old", "max_old_loss"}


def test_a_parent_of_a_method_that_cannot_go_on(api: Api, dataset: str, towers: tuple[str, str]) -> None:
    model = store_model(api.services, towers[0], name="probe", method="linear_probe")
    body = refused(tune(api, dataset, {"parent": model}), 422, "invalid-config")
    assert "fitted from scratch" in body["detail"]
