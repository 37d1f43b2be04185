"""Models that want pictures fitted into the square in different ways, in one request."""

from __future__ import annotations

import json
from typing import Any

import pytest
from PIL import Image

from tests.support.api import Api, change_manifest, encoded, store_model


def wide() -> bytes:
    """Left third red, the rest blue: what is seen of it depends on how it is fitted."""
    image = Image.new("RGB", (96, 32), "blue")
    image.paste("red", (0, 0, 32, 32))
    return encoded(image)


def ask(api: Api, *models: str) -> list[dict[str, Any]]:
    answer = api.client.post("/predict", files=[("images", ("w.png", wide()))], data={"model": list(models)})
    assert answer.status_code == 200, answer.text
    body = answer.json()
    return [one["predictions"][0]["top"] for one in body.get("results", [body])]


def test_each_model_gets_the_picture_in_its_own_way(api: Api, towers: tuple[str, str]) -> None:
    import torch

    from npt_core.classifier import Classifier
    from npt_core.clip import load_backbone
    from npt_core.tuning.features import load_picture

    models = {}
    for way in ("shortest", "longest", "squash"):
        models[way] = store_model(api.services, towers[0])
        facts = {"preprocess": {"resize_mode": way}}
        change_manifest(api.services, models[way], lambda text, facts=facts: json.dumps(json.loads(text) | facts))
    alone = {way: ask(api, model)[0] for way, model in models.items()}
    for way, together in zip(models, ask(api, *models.values()), strict=True):
        for one, other in zip(alone[way], together, strict=True):
            assert one["label"] == other["label"]
            assert one["probability"] == pytest.approx(other["probability"], abs=1e-6)
    assert len({json.dumps(top) for top in alone.values()}) == 3

    backbone = load_backbone(towers[0], device="cpu")
    for way, model in models.items():
        classifier = Classifier.load(api.services.models.folder(model), backbone)
        scores = classifier.predict(classifier.backbone.encode_images(load_picture(classifier.backbone, wide())[None]))
        expected = dict(zip(scores.labels, scores.probabilities[0].tolist(), strict=True))
        assert {one["label"]: one["probability"] for one in alone[way]} == pytest.approx(expected, abs=1e-5)
        assert torch.isfinite(scores.probabilities).all()
