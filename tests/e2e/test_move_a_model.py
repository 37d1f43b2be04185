"""A model from one running service to another, and out of both: real HTTP, real worker, the demo backbone."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.support.service import Service, running_service, wait_for

QUICK = {"epochs": 3, "views": 1, "refit": False}


@pytest.fixture(scope="module")
def there(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("there") / "data") as running:
        yield running


def tune(service: Service, digits: bytes, **config: Any) -> dict[str, Any]:
    """A job with a name; what it made."""
    answer = service.client.post(
        "/tune",
        files={"dataset": ("digits.zip", digits, "application/zip")},
        data={"config": json.dumps(QUICK | config), "name": "travelling"},
    )
    assert answer.status_code == 202, answer.text
    job = service.wait_for_status(answer.json()["id"], "succeeded", timeout_s=300)
    made: dict[str, Any] = service.client.get(f"/models/{job['model_id']}").json()
    return made


@pytest.fixture(scope="module")
def versions(service: Service, digits: bytes) -> list[dict[str, Any]]:
    first = tune(service, digits)
    return [first, tune(service, digits, seed=1, parent=first["id"])]


@pytest.fixture(scope="module")
def images(holdout: Path) -> list[bytes]:
    with zipfile.ZipFile(holdout) as archive:
        return [archive.read(next(n for n in archive.namelist() if n.startswith(f"{d}/"))) for d in range(10)]


def predict(service: Service, images: list[bytes], model: str) -> list[Any]:
    """One picture a request: in one batch with others a picture's last bits depend on who they are."""
    found = []
    for image in images:
        files = {"images": ("a.png", image, "image/png")}
        answer = service.client.post("/predict", files=files, data={"model": model, "top_k": "10"})
        assert answer.status_code == 200, answer.text
        found.append(answer.json()["predictions"][0]["top"])
    return found


def test_two_tunings_of_a_name_are_two_versions(service: Service, versions: list[dict[str, Any]]) -> None:
    assert [(one["name"], one["version"]) for one in versions] == [("travelling", 1), ("travelling", 2)]
    listed = service.client.get("/models", params={"name": "travelling"}).json()["items"]
    assert [one["id"] for one in listed] == [one["id"] for one in reversed(versions)]
    lineage = versions[1]["lineage"]
    assert lineage["ancestors"] == [{"id": versions[0]["id"], "present": True, "name": "travelling", "version": 1}]
    assert lineage["config"]["seed"] == 1
    assert lineage["dataset_id"] == versions[0]["dataset_id"]


def test_an_alias_is_published_and_rolled_back(
    service: Service, versions: list[dict[str, Any]], images: list[bytes]
) -> None:
    one, two = (version["id"] for version in versions)
    answers = {model: predict(service, images, model) for model in (one, two)}
    for model in (one, two, one):
        assert service.client.put("/aliases/champion", json={"model": model}).status_code == 200
        assert predict(service, images, "champion") == answers[model]
    assert service.client.delete(f"/models/{one}").status_code == 409
    assert service.client.delete("/aliases/champion").status_code == 204


def test_the_other_service_answers_the_same(
    service: Service, there: Service, versions: list[dict[str, Any]], images: list[bytes]
) -> None:
    model = versions[1]["id"]
    sent = service.client.get(f"/models/{model}/export")
    assert sent.status_code == 200
    answer = there.client.post("/models/import", files={"file": ("model.zip", sent.content, "application/zip")})
    assert answer.status_code == 201, answer.text
    kept = there.client.get(answer.headers["location"]).json()
    assert (kept["name"], kept["version"]) == ("travelling", 1)
    assert kept["lineage"]["imported"]["version"] == 2
    assert kept["lineage"]["ancestors"] == [{"id": versions[0]["id"], "present": False, "name": None, "version": None}]
    assert predict(there, images, kept["id"]) == predict(service, images, model)
    again = there.client.post("/models/import", content=sent.content, headers={"Content-Type": "application/zip"})
    assert (again.status_code, again.json()["id"]) == (200, kept["id"])
    back = service.client.post(
        "/models/import", files={"file": there.client.get(f"/models/{kept['id']}/export").content}
    )
    assert (back.status_code, back.json()["id"]) == (200, model)


def test_a_service_that_ends_and_starts_again_knows_it_all(
    service: Service, versions: list[dict[str, Any]], tmp_path: Path
) -> None:
    sent = service.client.get(f"/models/{versions[0]['id']}/export").content
    with running_service(tmp_path / "data") as first:
        model = first.client.post("/models/import", files={"file": sent}).json()["id"]
        first.client.put("/aliases/champion", json={"model": model})
    with running_service(tmp_path / "data") as again:
        found = again.client.get("/aliases").json()["items"]
        assert [(one["alias"], one["model"]) for one in found] == [("champion", model)]
        assert again.client.delete(f"/models/{model}").status_code == 409


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_as_onnx_it_answers_the_same(service: Service, versions: list[dict[str, Any]], images: list[bytes]) -> None:
    """Prepared as its metadata say, with nothing of this project."""
    import onnxruntime

    model = versions[1]["id"]

    def ask() -> Any:
        answer = service.client.get(f"/models/{model}/export", params={"format": "onnx"})
        assert answer.status_code in (200, 503), answer.text
        assert service.client.get("/livez", timeout=5).status_code == 200
        return answer if answer.status_code == 200 else None

    data = wait_for("the model to be written", ask, timeout_s=900, every_s=1).content
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    facts = session.get_modelmeta().custom_metadata_map
    labels, prepare = json.loads(facts["labels"]), json.loads(facts["preprocess"])
    pixels = np.stack([prepared(image, prepare) for image in images])
    (probabilities,) = session.run(["probabilities"], {"images": pixels})
    for row, top in zip(probabilities, predict(service, images, model), strict=True):
        told = {one["label"]: one["probability"] for one in top}
        for label, probability in zip(labels, row.tolist(), strict=True):
            assert probability == pytest.approx(told[label], abs=1e-4)


def prepared(data: bytes, how: dict[str, Any]) -> Any:
    image = Image.open(io.BytesIO(data)).convert("RGB")
    side = how["size"][0]
    assert (how["resize_mode"], how["interpolation"]) == ("shortest", "bicubic")
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    pixels = np.asarray(image.crop((left, top, left + side, top + side)), np.float32) / 255
    return ((pixels - how["mean"]) / how["std"]).transpose(2, 0, 1).astype(np.float32)
