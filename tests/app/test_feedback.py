"""Feedback over HTTP: off by default, kept after the answer, listed, labelled, learned from."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.support.api import Api, change_manifest, coloured_zip, png, store_model


@pytest.fixture
def model(api: Api) -> str:
    return store_model(api.services, api.settings.backbone_entries[0], name="unsure")


def switch(api: Api, model: str, **wanted: Any) -> dict[str, Any]:
    answer = api.client.put(f"/models/{model}/feedback", json={"enabled": True, "below": 1.0} | wanted)
    assert answer.status_code == 200, answer.text
    api.app.state.context.feedback._known.clear()  # what a second does
    return answer.json()


def predict(api: Api, model: str, *pictures: bytes, **fields: Any) -> httpx.Response:
    files = [("images", (f"{number}.png", picture, "image/png")) for number, picture in enumerate(pictures)]
    answer = api.client.post("/predict", files=files, data={"model": model} | fields)
    assert api.app.state.context.feedback.settle()
    return answer


def items(api: Api, model: str, **query: Any) -> list[dict[str, Any]]:
    answer = api.client.get(f"/models/{model}/feedback/items", params=query)
    assert answer.status_code == 200, answer.text
    return answer.json()["items"]


def test_nothing_is_kept_until_somebody_switches_it_on(api: Api, model: str) -> None:
    assert api.client.get(f"/models/{model}/feedback").json() == {
        "enabled": False,
        "below": 0.6,
        "max_items": 500,
        "max_days": 30,
        "items": 0,
        "labelled": 0,
        "size_bytes": 0,
    }
    predict(api, model, png("red", 1))
    assert items(api, model) == []


def test_a_switch_that_cannot_be_read_costs_no_answer(api: Api, model: str) -> None:
    switch(api, model)
    api.services.store.put(f"feedback/{model}/settings.json", b"{")
    assert predict(api, model, png("red", 2)).status_code == 200
    assert api.client.get(f"/models/{model}/feedback").json()["code"] == "corrupt-record"
    assert api.client.delete(f"/models/{model}/feedback").status_code == 204


def test_what_the_model_was_not_sure_about_is_kept_with_its_answer(api: Api, model: str) -> None:
    switch(api, model)
    pictures = [png("red", 10), png("green", 11)]
    answer = predict(api, model, *pictures, top_k=2).json()
    found = items(api, model)
    assert [one["filename"] for one in found] == ["1.png", "0.png"]
    for kept, said in zip(reversed(found), answer["predictions"], strict=True):
        assert [one["label"] for one in kept["answer"]] == [one["label"] for one in said["top"]]
        assert [one["probability"] for one in kept["answer"]] == pytest.approx(
            [one["probability"] for one in said["top"]]
        )
    image = api.client.get(f"/models/{model}/feedback/items/{found[1]['id']}/image")
    assert image.content == pictures[0]
    assert image.headers["content-type"] == "image/png"
    assert "sandbox" in image.headers["content-security-policy"]
    assert image.headers["x-content-type-options"] == "nosniff"
    state = api.client.get(f"/models/{model}/feedback").json()
    assert (state["items"], state["size_bytes"]) == (2, sum(map(len, pictures)))


def test_sure_answers_unreadable_files_other_names_and_other_models_are_not_kept(api: Api, model: str) -> None:
    switch(api, model, below=0.0)
    predict(api, model, png("red", 20))
    assert items(api, model) == []
    switch(api, model, below=1.0)
    predict(api, model, png("red", 21), labels='["red", "green"]')
    predict(api, "zero-shot", png("red", 22), labels='["red", "green"]')
    assert items(api, model) == []
    mixed = predict(api, model, b"no picture", png("red", 23))
    assert "error" in mixed.json()["predictions"][0]
    assert [one["filename"] for one in items(api, model)] == ["1.png"]


def test_labels_are_all_kept_or_none(api: Api, model: str) -> None:
    switch(api, model)
    predict(api, model, png("red", 30), png("red", 31))
    first, second = (one["id"] for one in items(api, model))
    wrong = api.client.post(f"/models/{model}/feedback/labels", json={"labels": {first: "red", "item_x": "red"}})
    assert (wrong.status_code, wrong.json()["code"]) == (422, "invalid-feedback")
    assert [fault["path"] for fault in wrong.json()["errors"]] == ["item_x"]
    done = api.client.post(f"/models/{model}/feedback/labels", json={"labels": {first: "red", second: "a new one"}})
    assert (done.status_code, done.json()["labelled"]) == (200, 2)
    assert {one["label"] for one in items(api, model, labelled=True)} == {"red", "a new one"}
    assert items(api, model, labelled=False) == []
    assert api.client.delete(f"/models/{model}/feedback/items/{first}").status_code == 204
    assert [one["id"] for one in items(api, model)] == [second]


@pytest.mark.parametrize(
    "body", [{"below": 0.5}, {"enabled": True, "below": 1.5}, {"enabled": True, "max_items": 0}, {"enabled": 1, "x": 1}]
)
def test_a_switch_that_makes_no_sense_is_refused(api: Api, model: str, body: dict[str, Any]) -> None:
    answer = api.client.put(f"/models/{model}/feedback", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request")


def test_clearing_forgets(api: Api, model: str) -> None:
    switch(api, model)
    predict(api, model, png("red", 40))
    assert api.client.delete(f"/models/{model}/feedback").status_code == 204
    assert api.client.get(f"/models/{model}/feedback").json()["items"] == 0
    assert items(api, model) == []


def test_the_next_version_needs_labels_and_a_data_set(api: Api, model: str) -> None:
    nothing = api.client.post(f"/models/{model}/feedback/tune")
    assert nothing.status_code == 409
    assert "not on this server" in nothing.json()["detail"]  # this model was made by hand
    dataset = api.client.post("/datasets?audit=false", files={"file": ("c.zip", coloured_zip(4, 8000))}).json()["id"]
    unlabelled = api.client.post(f"/models/{model}/feedback/tune", json={"dataset_id": dataset})
    assert unlabelled.status_code == 409
    assert "Nothing is labelled" in unlabelled.json()["detail"]
    switch(api, model)
    predict(api, model, png("yellow", 50), png("red", 51))
    labels = {one["id"]: ("yellow" if one["filename"] == "0.png" else "red") for one in items(api, model)}
    api.client.post(f"/models/{model}/feedback/labels", json={"labels": labels})
    bad = api.client.post(
        f"/models/{model}/feedback/tune", json={"dataset_id": dataset, "config": {"epochs": 0, "metod": "coop"}}
    )
    assert bad.status_code == 422
    assert {fault["path"] for fault in bad.json()["errors"]} == {"epochs", "metod"}
    started = api.client.post(
        f"/models/{model}/feedback/tune",
        json={"dataset_id": dataset, "config": {"epochs": 2}},
        headers={"Idempotency-Key": "again"},
    )
    assert started.status_code == 202, started.text
    job = started.json()
    assert started.headers["location"] == f"/jobs/{job['id']}"
    assert (job["kind"], job["name"], job["config"]["epochs"]) == ("tune", "unsure", 2)
    grown = api.client.get(f"/datasets/{job['dataset_id']}").json()
    assert (grown["parent"], grown["change"]["added"], grown["images"]) == (dataset, 2, 14)
    first = next(iter(labels))  # what a person does meanwhile makes it no other request
    api.client.post(f"/models/{model}/feedback/labels", json={"labels": {first: "orange"}})
    stored = api.services.store.names("datasets")
    again = api.client.post(
        f"/models/{model}/feedback/tune",
        json={"dataset_id": dataset, "config": {"epochs": 2}},
        headers={"Idempotency-Key": "again"},
    )
    assert again.status_code == 202, again.text
    assert again.json()["id"] == job["id"]
    assert again.headers["idempotency-replayed"] == "true"
    assert api.services.store.names("datasets") == stored  # and no data set that no job is about
    other = api.client.post(
        f"/models/{model}/feedback/tune",
        json={"dataset_id": dataset, "config": {"epochs": 3}},
        headers={"Idempotency-Key": "again"},
    )
    assert (other.status_code, other.json()["code"]) == (422, "idempotency-mismatch")
    api.client.post(f"/jobs/{job['id']}/cancel")


def test_another_method_brings_its_own_settings(api: Api, model: str) -> None:
    dataset = api.client.post("/datasets?audit=false", files={"file": ("c.zip", coloured_zip(4, 8100))}).json()["id"]
    switch(api, model)
    predict(api, model, png("red", 60))
    labels = {one["id"]: "red" for one in items(api, model)}
    api.client.post(f"/models/{model}/feedback/labels", json={"labels": labels})
    job = api.client.post(
        f"/models/{model}/feedback/tune", json={"dataset_id": dataset, "config": {"method": "linear_probe"}}
    ).json()
    assert (job["config"]["method"], job["config"]["regularizer"]) == ("linear_probe", "none")
    assert "n_ctx" not in job["config"]["method_config"]
    api.client.post(f"/jobs/{job['id']}/cancel")


def test_a_model_that_was_continued_goes_on_from_itself(api: Api, model: str) -> None:
    """Its data set may have the new classes alone: tuned on that from scratch it would forget the others."""
    settings = {"method": "coop", "parent": "model_" + "0" * 26, "keep_old": "replay", "epochs": 3, "schedule": {}}
    change_manifest(api.services, model, lambda text: json.dumps(json.loads(text) | {"config": settings}))
    dataset = api.client.post("/datasets?audit=false", files={"file": ("c.zip", coloured_zip(4, 8200))}).json()["id"]
    switch(api, model)
    predict(api, model, png("red", 70))
    labels = {one["id"]: "red" for one in items(api, model)}
    api.client.post(f"/models/{model}/feedback/labels", json={"labels": labels})
    answer = api.client.post(f"/models/{model}/feedback/tune", json={"dataset_id": dataset})
    assert answer.status_code == 202, answer.text
    config = answer.json()["config"]
    assert (config["parent"], config["keep_old"], config["epochs"]) == (model, "replay", 3)
    api.client.post(f"/jobs/{answer.json()['id']}/cancel")


def test_a_body_without_end_is_not_read(api: Api, model: str) -> None:
    huge = {"labels": {f"item_{number}": "x" * 200 for number in range(9_000)}}
    answer = api.client.post(f"/models/{model}/feedback/labels", json=huge)
    assert (answer.status_code, answer.json()["code"]) == (413, "too-large")


def test_bodies_that_cannot_be_read_are_refused_in_plain_words(api: Api, model: str) -> None:
    url, json_type = f"/models/{model}/feedback", {"Content-Type": "application/json"}
    broken = api.client.put(url, content=b'{"enabled": tru', headers=json_type).json()
    assert broken["errors"] == [{"path": "body", "message": "is not JSON (Expecting value at character 12)"}]
    untyped = api.client.put(url, content=b'{"enabled": true}', headers={"Content-Type": "text/plain"}).json()
    assert "sent with the header Content-Type: application/json" in untyped["detail"]
    strange = api.client.put(url, json={"below": 0.5, "belov": 0.5}).json()
    assert {one["path"]: one["message"] for one in strange["errors"]} == {
        "enabled": "is missing",
        "belov": "is not a field here",
    }
