"""POST /tune: what is accepted, what is refused and how it says so, and the idempotency key."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.problems import Problem
from app.routes.tune import check_config, read_config
from npt_core.errors import NPTError
from tests.support.api import Api, archive, coloured_zip, png

WAITING = {"error": None, "model_id": None, "attempts": 0, "started_at": None, "finished_at": None}


def tune(
    api: Api, data: bytes | None = None, config: Any = None, *, key: str | None = None, **fields: str
) -> httpx.Response:
    files = {"dataset": ("x.zip", data, "application/zip")} if data is not None else None
    text = {} if config is None else {"config": config if isinstance(config, str) else json.dumps(config)}
    return api.client.post("/tune", files=files, data=text | fields, headers={"Idempotency-Key": key} if key else None)


def refused(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["code"] == code, body
    return body


@pytest.fixture(scope="module")
def dataset(api: Api) -> str:
    answer = api.client.post("/datasets", files={"file": ("c.zip", coloured_zip(4, first_seed=100))})
    assert answer.status_code == 201, answer.text
    found: str = answer.json()["id"]
    return found


class TestAccepted:
    def test_a_zip(self, api: Api) -> None:
        answer = tune(api, coloured_zip(4, first_seed=200), {"epochs": 3}, name="first")
        assert answer.status_code == 202, answer.text
        job = answer.json()
        assert answer.headers["location"] == f"/jobs/{job['id']}"
        assert int(answer.headers["retry-after"]) > 0
        assert job["status"] == "queued"
        assert job["kind"] == "tune"
        assert job["name"] == "first"
        assert job.items() >= WAITING.items()
        assert api.client.get(f"/datasets/{job['dataset_id']}").json()["images"] == 12
        assert api.client.get(f"/jobs/{job['id']}").json()["id"] == job["id"]
        assert api.parts() == []

    def test_a_stored_data_set_as_multipart_and_url_encoded(self, api: Api, dataset: str) -> None:
        encoded = api.client.post("/v1/tune", data={"dataset_id": dataset, "config": "{}"})
        assert encoded.status_code == 202, encoded.text
        assert encoded.headers["location"].startswith("/v1/jobs/")
        body = f'--b\r\nContent-Disposition: form-data; name="dataset_id"\r\n\r\n{dataset}\r\n--b--\r\n'
        parts = api.client.post("/tune", content=body, headers={"Content-Type": "multipart/form-data; boundary=b"})
        assert parts.status_code == 202, parts.text
        assert parts.json()["config"] == encoded.json()["config"]

    def test_the_config_is_stored_whole(self, api: Api, dataset: str) -> None:
        config = tune(api, config={"method_config": {"n_ctx": 2}, "seed": 7}, dataset_id=dataset).json()["config"]
        assert config["seed"] == 7
        assert config["method"] == "coop"
        assert config["regularizer"] == "npt"
        assert config["method_config"]["n_ctx"] == 2
        assert config["method_config"]["class_specific"] is False

    def test_a_share_that_is_left_to_be_chosen(self, api: Api, dataset: str) -> None:
        answer = tune(api, config={"tuned_share": "auto"}, dataset_id=dataset)
        assert answer.status_code == 202, answer.text
        assert answer.json()["config"]["tuned_share"] == "auto"

    def test_a_picture_under_two_labels_is_told(self, api: Api) -> None:
        pictures = {f"{colour}/{n}.png": png(colour, n + 700) for colour in ("red", "blue") for n in range(3)}
        data = archive(pictures | {"blue/wrong.png": png("red", 700)})
        body = tune(api, data).json()
        assert any("blue/wrong.png" in warning and "more than one class" in warning for warning in body["warnings"])

    @pytest.mark.parametrize("config", ["", "  ", "{}"])
    def test_an_empty_config_is_the_default(self, api: Api, dataset: str, config: str) -> None:
        assert tune(api, config=config, dataset_id=dataset).status_code == 202

    def test_one_of_the_server_s_backbones(self, api: Api, dataset: str) -> None:
        assert tune(api, config={"backbone": "other"}, dataset_id=dataset).status_code == 202


class TestRefused:
    @pytest.mark.parametrize(("config", "code", "status"), [
        ("{", "malformed-request", 400),
        ("[" * 100_000, "malformed-request", 400),
        ("[]", "invalid-config", 422),
        ("3", "invalid-config", 422),
        ('{"method": "telepathy"}', "invalid-config", 422),
        ('{"class_names": {"red": "\\ud800"}}', "invalid-config", 422),
        ('{"lr": NaN}', "invalid-config", 422),
        ('{"epochs": 1e999}', "invalid-config", 422),
        ('{"backbone": "ViT-L-14/openai"}', "unknown-backbone", 422),
        ('{"backbone": "../../etc/passwd"}', "unknown-backbone", 422),
        ('{"backbone": "local:x=tiny@/etc/passwd"}', "unknown-backbone", 422),
        ('{"method": "zero_shot", "regularizer": "npt"}', "incompatible-config", 422),
    ])  # fmt: skip
    def test_configs(self, api: Api, dataset: str, config: str, code: str, status: int) -> None:
        refused(tune(api, config=config, dataset_id=dataset), status, code)

    def test_every_fault_of_a_config_at_once(self, api: Api, dataset: str) -> None:
        config = {"epochs": 0, "lr": -1, "surprise": 1, "method_config": {"n_ctx": 0}}
        body = refused(tune(api, config=config, dataset_id=dataset), 422, "invalid-config")
        assert {"epochs", "lr", "surprise"} <= {one["path"] for one in body["errors"]}

    @pytest.mark.parametrize("config", [{"tuned_share": "half"}, {"tuned_share": "auto", "method": "zero_shot"}])
    def test_a_share_of_nothing(self, api: Api, dataset: str, config: dict[str, Any]) -> None:
        body = refused(tune(api, config=config, dataset_id=dataset), 422, "invalid-config")
        assert [one["path"] for one in body["errors"]] == ["tuned_share"]

    def test_a_bad_config_stores_no_data_set(self, api: Api) -> None:
        before = api.client.get("/datasets", params={"limit": 200}).json()["items"]
        refused(tune(api, coloured_zip(4, first_seed=300), {"epochs": 0}), 422, "invalid-config")
        assert api.client.get("/datasets", params={"limit": 200}).json()["items"] == before
        assert api.parts() == []

    def test_names_for_classes_there_are_not(self, api: Api, dataset: str) -> None:
        config = json.dumps({"class_names": {"red": "scarlet", "purple": "violet"}})
        for fields, files in (
            ({"dataset_id": dataset, "config": config}, None),
            ({"config": config}, {"dataset": ("x.zip", coloured_zip(3), "application/zip")}),
        ):
            answer = api.client.post("/tune", data=fields, files=files)
            assert answer.status_code == 422, answer.text
            assert answer.json()["code"] == "invalid-config"
            assert [error["path"] for error in answer.json()["errors"]] == ["class_names.purple"]

    def test_no_data_and_twice(self, api: Api, dataset: str) -> None:
        assert refused(tune(api, name="x"), 422, "invalid-request")["errors"][0]["path"] == "dataset"
        refused(tune(api, coloured_zip(), dataset_id=dataset), 422, "invalid-request")
        refused(tune(api, dataset="no file"), 422, "invalid-request")

    @pytest.mark.parametrize("dataset_id", ["0" * 64, "../../etc", "x", "%00"])
    def test_an_unknown_data_set(self, api: Api, dataset_id: str) -> None:
        refused(tune(api, dataset_id=dataset_id), 404, "not-found")

    def test_unknown_fields_and_unusable_names(self, api: Api, dataset: str) -> None:
        body = refused(tune(api, dataset_id=dataset, shots="4", name="a\x00b"), 422, "invalid-request")
        assert {one["path"] for one in body["errors"]} == {"shots", "name"}
        refused(tune(api, dataset_id=dataset, name="x" * 201), 422, "invalid-request")

    def test_an_archive_that_is_none(self, api: Api) -> None:
        refused(tune(api, b"<html></html>"), 422, "invalid-archive")
        assert api.parts() == []

    def test_json(self, api: Api, dataset: str) -> None:
        refused(api.client.post("/tune", json={"dataset_id": dataset}), 415, "unsupported-media-type")


class TestIdempotency:
    def test_the_same_request_is_replayed_whatever_its_boundaries(self, api: Api) -> None:
        data = coloured_zip(4, first_seed=400)
        first = tune(api, data, {"seed": 1}, key="k-1")
        again = tune(api, data, {"seed": 1, "method": "coop"}, key="k-1")
        assert first.status_code == again.status_code == 202, again.text
        assert again.json()["id"] == first.json()["id"]
        assert "idempotency-replayed" not in first.headers
        assert again.headers["idempotency-replayed"] == "true"
        assert again.headers["location"] == first.headers["location"]

    def test_a_replay_stores_nothing(self, api: Api) -> None:
        data = coloured_zip(4, first_seed=500)
        first = tune(api, data, key="k-5").json()
        api.client.post(f"/jobs/{first['id']}/cancel")
        assert api.client.delete(f"/datasets/{first['dataset_id']}").status_code == 204
        assert tune(api, data, key="k-5").json()["id"] == first["id"]
        assert not api.services.datasets.exists(first["dataset_id"])
        assert api.parts() == []

    def test_another_request_under_the_same_key(self, api: Api, dataset: str) -> None:
        assert tune(api, dataset_id=dataset, key="k-2").status_code == 202
        refused(tune(api, config={"seed": 2}, dataset_id=dataset, key="k-2"), 422, "idempotency-mismatch")
        refused(tune(api, dataset_id=dataset, name="other", key="k-2"), 422, "idempotency-mismatch")

    def test_without_a_key_each_request_is_a_job(self, api: Api, dataset: str) -> None:
        assert tune(api, dataset_id=dataset).json()["id"] != tune(api, dataset_id=dataset).json()["id"]

    def test_a_refused_request_does_not_use_up_its_key(self, api: Api, dataset: str) -> None:
        refused(tune(api, config={"epochs": 0}, dataset_id=dataset, key="k-3"), 422, "invalid-config")
        assert tune(api, config={"epochs": 1}, dataset_id=dataset, key="k-3").status_code == 202

    def test_many_at_once_start_one_job(self, api: Api, dataset: str) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: tune(api, dataset_id=dataset, key="k-4"), range(12)))
        accepted = {answer.json()["id"] for answer in answers if answer.status_code == 202}
        assert len(accepted) == 1
        for answer in answers:
            if answer.status_code != 202:
                refused(answer, 409, "idempotency-in-flight")
                assert answer.headers["retry-after"]

    @pytest.mark.parametrize("key", ["x" * 201, "two words", "\u00e9"])
    def test_keys_that_are_none(self, api: Api, dataset: str, key: str) -> None:
        headers = [(b"Idempotency-Key", key.encode())]
        answer = api.client.post("/tune", data={"dataset_id": dataset}, headers=headers)
        assert answer.status_code in (400, 422)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
KNOWN = st.sampled_from(
    ["epochs", "lr", "method", "method_config", "regularizer", "shots", "class_names", "backbone", "seed"]
)


@settings(deadline=None)
@given(st.text(max_size=30) | JSON.map(json.dumps) | st.dictionaries(KNOWN, JSON, max_size=4).map(json.dumps))
def test_a_config_is_canonical_or_refused(text: str) -> None:
    try:
        config = check_config(read_config(text), ("demo",))
    except (Problem, NPTError):
        return  # anything else would be a mistake of ours
    assert check_config(config, ("demo",)) == config


def test_a_misspelt_method_is_answered_with_all_there_are(api: Api, dataset: str) -> None:
    body = refused(tune(api, config={"method": "coopp"}, dataset_id=dataset), 422, "invalid-config")
    assert body["errors"][0]["message"].startswith("There is no method 'coopp'; accepted: auto, ")
    assert body["detail"].startswith("The tune config cannot be used")


def test_a_tuning_has_no_results_and_never_will(api: Api, dataset: str) -> None:
    job = tune(api, dataset_id=dataset).json()
    refused(api.client.get(f"/jobs/{job['id']}/results"), 404, "not-found")
    api.client.post(f"/jobs/{job['id']}/cancel")


def test_an_alias_in_the_place_of_an_id_is_told_where_to_look(api: Api) -> None:
    assert "GET /aliases" in refused(api.client.get("/models/champion"), 404, "not-found")["detail"]
