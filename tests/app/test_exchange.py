"""Models from one server to another, over real HTTP."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.settings import AppSettings
from tests.support.api import Api, coloured_zip, png, running_api, store_model
from tests.support.bundles import HONEST, rewrite, rezipped


@pytest.fixture(scope="module")
def there(make_settings: Callable[..., AppSettings], towers: tuple[str, str]) -> Iterator[Api]:
    """Another server with one of the two backbones, under another name."""
    renamed = towers[0].replace("local:tiny=", "local:small=")
    assert renamed != towers[0]
    with running_api(make_settings(backbone=renamed)) as running:
        yield running


@pytest.fixture(scope="module")
def model(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[0], name="colours", n_ctx=6)  # like no model of another test


@pytest.fixture(scope="module")
def exported(api: Api, model: str) -> bytes:
    return api.client.get(f"/models/{model}/export").content


def send(api: Api, data: bytes, status: int, **params: str) -> dict[str, Any]:
    answer = api.client.post("/models/import", content=data, params=params, headers={"Content-Type": "application/zip"})
    assert answer.status_code == status, answer.text
    assert api.parts() == []
    body: dict[str, Any] = answer.json()
    return body


def probabilities(api: Api, model: str) -> list[Any]:
    """One picture a request: equal numbers are promised for equal batches, and several may be encoded in any."""
    found = []
    for n, colour in enumerate(("red", "blue", "green")):
        files = [("images", (f"{n}.png", png(colour, n), "image/png"))]
        answer = api.client.post("/predict", files=files, data={"model": model})
        assert answer.status_code == 200, answer.text
        found += [one["top"] for one in answer.json()["predictions"]]
    return found


def models(api: Api) -> list[str]:
    return [one["id"] for one in api.client.get("/models", params={"limit": 200}).json()["items"]]


class TestExport:
    def test_is_one_zip_of_safetensors_and_json(self, api: Api, model: str) -> None:
        answer = api.client.get(f"/models/{model}/export")
        assert answer.headers["content-type"] == "application/zip"
        assert answer.headers["content-disposition"] == f'attachment; filename="{model}.zip"'
        with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
            assert archive.testzip() is None
            assert {Path(name).suffix for name in archive.namelist()} == {".json", ".safetensors"}
            assert json.loads(archive.read("export.json"))["id"] == model
            assert json.loads(archive.read("manifest.json")) == api.client.get(f"/models/{model}").json()["manifest"]
            assert "owner" not in archive.read("export.json").decode()

    def test_gives_the_same_bytes_each_time(self, api: Api, model: str, exported: bytes) -> None:
        answer = api.client.get(f"/models/{model}/export")
        assert answer.content == exported
        assert re.fullmatch(r'"[0-9a-f]{64}"', answer.headers["etag"])

    def test_is_streamed(self, api: Api, model: str) -> None:
        with api.client.stream("GET", f"/models/{model}/export") as answer:
            assert "content-length" not in answer.headers
            assert sum(1 for _ in answer.iter_raw()) > 1

    @pytest.mark.parametrize("path", [f"/models/model_{'0' * 26}/export", "/models/x/export", "/models/../export"])
    def test_of_what_is_not_there(self, api: Api, path: str) -> None:
        assert api.client.get(path).status_code == 404

    def test_in_a_form_that_is_none(self, api: Api, model: str) -> None:
        assert api.client.get(f"/models/{model}/export", params={"format": "pickle"}).status_code == 422

    def test_of_a_damaged_model_is_told(self, api: Api, towers: tuple[str, str]) -> None:
        broken = store_model(api.services, towers[0])
        (api.services.models.folder(broken) / "manifest.json").write_text("{}")
        answer = api.client.get(f"/models/{broken}/export")
        assert (answer.status_code, answer.json()["code"]) == (500, "corrupt-record")
        assert "manifest.json" in answer.json()["detail"]


class TestImport:
    def test_another_server_answers_the_same(self, api: Api, there: Api, model: str, exported: bytes) -> None:
        answer = there.client.post("/models/import", files={"file": ("x.zip", exported, "application/zip")})
        assert answer.status_code == 201, answer.text
        kept = answer.json()
        assert answer.headers["location"] == f"/models/{kept['id']}"
        assert (kept["name"], kept["version"], kept["backbone"]) == ("colours", 1, "small")
        assert probabilities(there, kept["id"]) == probabilities(api, model)
        detail = there.client.get(f"/models/{kept['id']}").json()
        assert detail["lineage"]["imported"]["id"] == model
        assert detail["manifest"] == api.client.get(f"/models/{model}").json()["manifest"]
        report = there.client.get(f"/models/{kept['id']}/report").json()
        assert report == api.client.get(f"/models/{model}/report").json()
        assert there.client.get(f"/models/{kept['id']}/export").status_code == 200

    def test_the_same_model_again_is_the_one_that_is_here(self, api: Api, there: Api, exported: bytes) -> None:
        first = there.client.post("/models/import", files={"file": exported}).json()["id"]
        before = models(there)
        assert send(there, exported, 200)["id"] == first
        assert send(there, exported, 200, name="colours")["id"] == first
        assert "point an alias" in send(there, exported, 409, name="paints")["detail"]
        assert models(there) == before

    def test_where_it_was_made_it_is_known(self, api: Api, model: str, exported: bytes) -> None:
        assert send(api, exported, 200)["id"] == model

    def test_under_another_name(self, api: Api, there: Api, towers: tuple[str, str]) -> None:
        data = api.client.get(f"/models/{store_model(api.services, towers[0], n_ctx=5)}/export").content
        answer = there.client.post("/v1/models/import", files={"file": data}, data={"name": " paints "})
        assert (answer.status_code, answer.json()["name"], answer.json()["version"]) == (201, "paints", 1)
        assert answer.headers["location"].startswith("/v1/models/")

    def test_on_another_backbone_it_is_refused_and_both_are_named(
        self, api: Api, there: Api, towers: tuple[str, str]
    ) -> None:
        data = api.client.get(f"/models/{store_model(api.services, towers[1])}/export").content
        body = send(there, data, 409)
        assert body["code"] == "backbone-not-configured"
        assert "'other'" in body["detail"]
        assert "'small'" in body["detail"]
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            fingerprint = json.loads(archive.read("manifest.json"))["backbone"]["fingerprint"]
        own = there.client.get("/backbones").json()["backbones"][0]["fingerprint"]
        assert fingerprint[:12] in body["detail"]
        assert own[:12] in body["detail"]

    def test_on_other_weights_of_the_same_name_too(
        self, api: Api, make_settings: Callable[..., AppSettings], towers: tuple[str, str], exported: bytes
    ) -> None:
        impostor = towers[1].replace("local:other=", "local:tiny=")
        with running_api(make_settings(backbone=impostor)) as running:
            assert send(running, exported, 409)["code"] == "fingerprint-mismatch"
            assert models(running) == []

    def test_where_the_backbone_cannot_be_loaded(
        self, make_settings: Callable[..., AppSettings], tmp_path: Path, exported: bytes
    ) -> None:
        with running_api(make_settings(backbone=f"local:tiny=ViT-B-32@{tmp_path}/none.pt")) as running:
            body = send(running, exported, 503)
            assert body["code"] == "backbone-unavailable"
            assert str(tmp_path) not in json.dumps(body)

    @pytest.mark.parametrize("name", ["a-pickle", "code", "no-manifest", "manifest-of-tomorrow", "tensors-a-pickle"])
    def test_what_is_no_model_is_refused(self, there: Api, tmp_path: Path, exported: bytes, name: str) -> None:
        """The whole table is in the core's tests."""
        before = models(there)
        (tmp_path / "good.zip").write_bytes(exported)
        body = send(there, rezipped(tmp_path / "good.zip", HONEST[name][0]), 422)
        assert body["code"] == "invalid-model"
        assert HONEST[name][1] in body["detail"]
        assert body["errors"]
        assert models(there) == before

    def test_what_the_backbone_cannot_use_is_refused(self, there: Api, tmp_path: Path, exported: bytes) -> None:
        before = models(there)
        (tmp_path / "good.zip").write_bytes(exported)

        def damage(files: dict[str, bytes]) -> None:
            (tmp_path / "classifier.safetensors").write_bytes(files["classifier.safetensors"])
            rewrite(tmp_path, lambda tensors: tensors["text_features"].fill_(float("nan")))
            files["classifier.safetensors"] = (tmp_path / "classifier.safetensors").read_bytes()

        body = send(there, rezipped(tmp_path / "good.zip", damage), 422)
        assert body["code"] == "invalid-model"
        assert models(there) == before

    def test_a_data_set_is_no_model(self, there: Api) -> None:
        body = send(there, coloured_zip(), 422)
        assert body["code"] == "invalid-model"
        assert "export.json is missing" in body["detail"]

    @pytest.mark.parametrize("data", [b"", b"text", b"PK\x03\x04"])
    def test_what_is_no_zip(self, there: Api, data: bytes) -> None:
        assert send(there, data, 422)["code"] in ("invalid-archive", "invalid-model")

    def test_requests_of_the_wrong_shape(self, there: Api, exported: bytes) -> None:
        post = there.client.post
        assert post("/models/import", json={"model": "x"}).status_code == 415
        assert post("/models/import", data={"name": "x"}).status_code == 422
        assert post("/models/import", files={"model": exported}).status_code == 422
        assert post("/models/import", files={"file": exported}, data={"mode": "x"}).status_code == 422
        assert send(there, exported, 422, name="x" * 201)["code"] == "invalid-request"
        assert send(there, exported, 422, name="a\nb")["errors"][0]["path"] == "name"

    def test_a_sender_that_goes_away_leaves_nothing(self, there: Api, exported: bytes) -> None:
        before = models(there)

        def half() -> Iterator[bytes]:
            yield exported[: len(exported) // 2]
            raise httpx.ReadError("gone")

        with pytest.raises(httpx.ReadError):
            there.client.post("/models/import", content=half(), headers={"Content-Type": "application/zip"})
        assert models(there) == before


class TestOnnx:
    def test_a_model_whose_text_is_made_for_each_picture_is_refused(self, api: Api, towers: tuple[str, str]) -> None:
        model = store_model(api.services, towers[0], method="cocoop")
        answer = api.client.get(f"/models/{model}/export", params={"format": "onnx"})
        assert (answer.status_code, answer.json()["code"]) == (422, "not-exportable")
        assert "anew for each picture" in answer.json()["detail"]

    def test_without_the_packages_it_says_what_to_install(
        self, api: Api, model: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("npt_core.onnx_export.PACKAGES", ("onnx", "package_that_is_not_there"))
        answer = api.client.get(f"/models/{model}/export", params={"format": "onnx"})
        assert (answer.status_code, answer.json()["code"]) == (501, "extra-missing")
        assert "pip install onnx onnxscript" in answer.json()["detail"]

    def test_of_a_backbone_that_is_not_here(self, api: Api, there: Api, towers: tuple[str, str]) -> None:
        model = store_model(there.services, towers[1])
        answer = there.client.get(f"/models/{model}/export", params={"format": "onnx"})
        assert (answer.status_code, answer.json()["code"]) == (409, "backbone-not-configured")

    def test_of_no_model(self, api: Api) -> None:
        assert api.client.get(f"/models/model_{'0' * 26}/export", params={"format": "onnx"}).status_code == 404
