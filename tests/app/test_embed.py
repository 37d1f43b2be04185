"""POST /embed: features of pictures and texts, the same that predictions are made of."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest

from app.settings import AppSettings
from tests.support.api import Api, png, running_api


def embed(api: Api, *images: tuple[str, bytes], **fields: Any) -> dict[str, Any]:
    files = [("images", (name, data, "image/png")) for name, data in images]
    data = {key: value if isinstance(value, str) else json.dumps(value) for key, value in fields.items()}
    answer = api.client.post("/embed", files=files, data=data)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def norm(vector: list[float]) -> float:
    return math.sqrt(sum(x * x for x in vector))


class TestFeatures:
    def test_pictures_and_texts_in_their_order_and_of_unit_norm(self, api: Api) -> None:
        texts = ["a red thing", "a blue thing", "a red thing"]
        found = embed(api, ("a.png", png("red")), ("b.png", png("blue")), ("a.png", png("red")), texts=texts)
        assert (found["backbone"], found["dimensions"]) == ("tiny", 16)
        assert [one["filename"] for one in found["images"]] == ["a.png", "b.png", "a.png"]
        assert [one["text"] for one in found["texts"]] == texts
        vectors = [one["embedding"] for one in found["images"] + found["texts"]]
        assert all(len(vector) == 16 and norm(vector) == pytest.approx(1, abs=1e-5) for vector in vectors)
        assert vectors[0] == vectors[2] != vectors[1]
        assert vectors[3] == vectors[5] != vectors[4]

    def test_are_those_of_the_towers(self, api: Api, towers: tuple[str, str]) -> None:
        from npt_core.clip import load_backbone
        from npt_core.tuning.features import load_picture

        backbone = load_backbone(towers[0], device="cpu")
        found = embed(api, ("a.png", png("green", 3)), texts=["three green words"])
        assert found["fingerprint"] == backbone.fingerprint
        image = backbone.encode_images(load_picture(backbone, png("green", 3))[None])[0].tolist()
        text = backbone.encode_texts(["three green words"])[0].tolist()
        assert found["images"][0]["embedding"] == pytest.approx(image, abs=1e-6)
        assert found["texts"][0]["embedding"] == pytest.approx(text, abs=1e-6)

    def test_another_backbone(self, api: Api) -> None:
        ours, other = embed(api, texts=["x"]), embed(api, texts=["x"], backbone="other")
        assert other["backbone"] == "other"
        assert ours["fingerprint"] != other["fingerprint"]
        assert ours["texts"] != other["texts"]

    def test_texts_alone_and_an_image_as_the_body(self, api: Api) -> None:
        answer = api.client.post("/embed", data={"texts": '["x"]'})  # url-encoded: there is no file
        assert [one["text"] for one in answer.json()["texts"]] == ["x"]
        assert answer.json()["images"] == []
        headers = {"Content-Type": "image/png"}
        raw = api.client.post("/v1/embed", params={"filename": "a.png"}, content=png("red"), headers=headers)
        assert raw.json()["images"] == embed(api, ("a.png", png("red")))["images"]
        both = api.client.post("/embed", params={"texts": '["x"]'}, content=png("red"), headers=headers).json()
        assert (len(both["images"]), len(both["texts"])) == (1, 1)

    def test_one_bad_picture_spoils_nothing(self, api: Api) -> None:
        found = embed(api, ("a.png", png("red")), ("b.png", b"no image"))
        good, bad = found["images"]
        assert "error" not in good
        assert "embedding" not in bad
        assert bad["error"]["code"] == "invalid-image"
        assert "error" in embed(api, ("b.png", b"no image"), texts=["x"])["images"][0]

    def test_words_that_the_backbone_never_saw_are_told(self, make_settings: Callable[..., AppSettings]) -> None:
        with running_api(make_settings(backbone="demo")) as running:
            found = embed(running, texts=["a red circle", "a platypus"])
        assert found["dimensions"] == len(found["texts"][0]["embedding"]) > 16
        assert len(found["warnings"]) == 1
        assert "platypus" in found["warnings"][0]
        assert "circle" not in found["warnings"][0]


class TestRefusals:
    @pytest.mark.parametrize(
        ("fields", "path"),
        [
            ({}, "images"),
            ({"texts": "[]"}, "images"),
            ({"texts": "x"}, "texts"),
            ({"texts": '{"a": 1}'}, "texts"),
            ({"texts": "[1]"}, "texts"),
            ({"texts": '["a", " "]'}, "texts[1]"),
            ({"texts": json.dumps(["x" * 1001])}, "texts[0]"),
            ({"texts": '["\\ud800"]'}, "texts[0]"),
            ({"texts": json.dumps(["x"] * 1001)}, "texts"),
            ({"texts": '["a"]', "model": "m"}, "model"),
        ],
    )
    def test_what_cannot_be_is_named(self, api: Api, fields: dict[str, str], path: str) -> None:
        answer = api.client.post("/embed", data=fields or {"texts": ""})
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-request"), answer.text
        assert answer.json()["errors"][0]["path"] == path

    def test_a_text_longer_than_the_tower_takes(self, api: Api) -> None:
        answer = api.client.post("/embed", data={"texts": json.dumps(["word " * 150])})
        assert (answer.status_code, answer.json()["code"]) == (422, "prompt-too-long")

    def test_no_picture_that_can_be_read(self, api: Api) -> None:
        files = [("images", ("a.png", b"no")), ("images", ("b.png", b"image"))]
        answer = api.client.post("/embed", files=files)
        assert (answer.status_code, answer.json()["code"]) == (422, "invalid-image")
        assert [fault["path"] for fault in answer.json()["errors"]] == ["a.png", "b.png"]

    def test_an_unknown_backbone(self, api: Api) -> None:
        answer = api.client.post("/embed", data={"texts": '["a"]', "backbone": "nope"})
        assert (answer.status_code, answer.json()["code"]) == (422, "unknown-backbone")

    def test_limits_are_those_of_predict(
        self, make_settings: Callable[..., AppSettings], towers: tuple[str, str]
    ) -> None:
        with running_api(
            make_settings(backbone=towers[0], max_images=2, max_image_bytes=2000, max_labels=2)
        ) as running:
            three = [("images", (f"{n}.png", png())) for n in range(3)]
            assert running.client.post("/embed", files=three).status_code == 413
            large = {"images": ("a.png", b"x" * 2001)}
            assert running.client.post("/embed", files=large).json()["code"] == "too-large"
            many = {"texts": '["a", "b", "c"]'}
            assert running.client.post("/embed", data=many).json()["errors"][0]["path"] == "texts"
            other = {"pictures": ("a.png", png())}
            assert running.client.post("/embed", files=other).json()["code"] == "invalid-request"
