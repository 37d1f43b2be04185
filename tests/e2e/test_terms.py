"""From a zip to calibrated answers, for other class frequencies, under an alias: a real service throughout."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from tests.support.service import Service

KINDS = "01"
"""The only digits that occur where the alias is used."""


@pytest.fixture(scope="module")
def model(service: Service, digits: bytes) -> str:
    answer = service.tune(digits, {"epochs": 6, "views": 1, "reject_below": 0.3})
    assert answer.status_code == 202, answer.text
    found: str = service.wait_for_status(answer.json()["id"], "succeeded")["model_id"]
    return found


def predict(service: Service, images: dict[str, bytes], model: str, **fields: str) -> dict[str, Any]:
    files = [("images", item) for item in images.items()]
    answer = service.client.post("/predict", files=files, data={"model": model, **fields})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_tuning_says_how_sure_its_model_is(service: Service, model: str) -> None:
    told = service.client.get(f"/models/{model}/report", headers={"Accept": "application/json"}).json()["calibration"]
    assert (told["count"], told["source"]) == (40, "held-out")
    stored = service.client.get(f"/models/{model}").json()["manifest"]["calibration"]
    assert stored == {"temperature": told["temperature"], "count": 40, "source": "held-out", "reject_below": 0.3}
    bundle = service.client.get(f"/models/{model}/export").content
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        assert json.loads(archive.read("manifest.json"))["calibration"] == stored  # it goes where the model goes


def test_an_alias_answers_for_the_digits_that_occur(service: Service, model: str, holdout: Path) -> None:
    with zipfile.ZipFile(holdout) as archive:
        names = [name for name in archive.namelist() if name[0] in KINDS][:60]
        images = {name: archive.read(name) for name in names}
    plain = predict(service, images, model)
    assert plain["calibrated"] is True
    assert (plain["reject_below"], plain["reject_below_from"], plain["priors_applied"]) == (0.3, "model", False)

    priors = {digit: 50 if digit in KINDS else 0 for digit in "0123456789"}
    put = service.client.put("/aliases/two-digits", json={"model": model, "priors": priors, "reject_below": 0.6})
    assert put.status_code == 200, put.text
    told = predict(service, images, "two-digits")
    assert (told["alias"], told["model"], told["temperature"]) == ("two-digits", model, plain["temperature"])
    assert (told["reject_below"], told["reject_below_from"]) == (0.6, "alias")
    assert (told["priors_applied"], told["priors_from"]) == (True, "alias")

    def right(answer: dict[str, Any]) -> int:
        pairs = zip(names, answer["predictions"], strict=True)
        return sum(one["top"][0]["label"] == name[0] for name, one in pairs)

    assert all(one["top"][0]["label"] in KINDS for one in told["predictions"])
    assert right(told) >= right(plain)
    assert right(told) >= 57
    assert all(one["rejected"] == (one["top"][0]["probability"] < 0.6) for one in told["predictions"])
    for before, after in zip(plain["predictions"], told["predictions"], strict=True):
        left = {one["label"]: one["probability"] for one in before["top"] if one["label"] in KINDS}
        if len(left) == 2:  # both are among the five best
            zero = next(one["probability"] for one in after["top"] if one["label"] == "0")
            assert zero == pytest.approx(left["0"] / (left["0"] + left["1"]), abs=1e-4)
    assert service.client.delete("/aliases/two-digits").status_code == 204
