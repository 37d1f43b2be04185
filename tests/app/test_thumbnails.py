"""Small pictures of a stored data set over HTTP."""

from __future__ import annotations

import base64
import io
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.support.api import Api, archive, encoded, png

ZIP = {"Content-Type": "application/zip"}
WIDE = encoded(Image.new("RGB", (300, 100), "red"))
BROKEN = png("red", 7, 64)[:200]


@pytest.fixture(scope="module")
def dataset(api: Api) -> str:
    """Two classes: five reds, one of them wide; two greens, one of them without its end."""
    entries = {f"red/{n}.png": png("red", n, 64) for n in range(4)} | {"red/wide.png": WIDE}
    entries |= {"green/0.png": png("green", 0, 64), "green/broken.png": BROKEN}
    answer = api.client.post("/datasets", content=archive(entries), headers=ZIP, params={"audit": "false"})
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


def ask(api: Api, dataset: str, **params: Any) -> httpx.Response:
    return api.client.get(f"/datasets/{dataset}/thumbnails", params=params)


def paths(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [one["path"] for one in answer.json()["items"]]


def opened(uri: str) -> Image.Image:
    kind, _, data = uri.partition(";base64,")
    assert kind == "data:image/webp"
    return Image.open(io.BytesIO(base64.b64decode(data)))


def test_pictures_are_made_small_and_keep_their_shape(api: Api, dataset: str) -> None:
    answer = ask(api, dataset, path="red/wide.png", side=60)
    [one] = answer.json()["items"]
    image = opened(one["image"])
    assert (image.format, image.size) == ("WEBP", (60, 20))
    red, green, blue = image.convert("RGB").getpixel((30, 10))  # type: ignore[misc]
    assert red > 240
    assert max(green, blue) < 20
    assert (one["label"], one["split"], one["message"]) == ("red", "train", None)
    assert answer.headers["cache-control"] == "private, max-age=86400"


def test_some_of_each_class_in_the_order_of_the_classes(api: Api, dataset: str) -> None:
    order = [one["label"] for one in api.client.get(f"/datasets/{dataset}").json()["classes"]]
    found = paths(ask(api, dataset, per_class=2))
    assert [path.partition("/")[0] for path in found] == [order[0], order[0], order[1], order[1]]
    assert len(set(found)) == 4


def test_a_class_alone_page_by_page(api: Api, dataset: str) -> None:
    first = ask(api, dataset, label="red", limit=3)
    assert first.json()["next_cursor"] == "3"
    second = ask(api, dataset, label="red", limit=3, cursor="3")
    assert second.json()["next_cursor"] is None
    assert sorted(paths(first) + paths(second)) == ["red/0.png", "red/1.png", "red/2.png", "red/3.png", "red/wide.png"]


def test_named_pictures_and_none_that_is_not_there(api: Api, dataset: str) -> None:
    asked = ["red/2.png", "green/0.png", "../secret.png"]
    assert set(paths(ask(api, dataset, path=asked))) == {"red/2.png", "green/0.png"}


def test_a_broken_picture_says_so_and_the_others_are_there(api: Api, dataset: str) -> None:
    found = {one["path"]: one for one in ask(api, dataset, label="green").json()["items"]}
    assert found["green/0.png"]["image"] is not None
    assert found["green/broken.png"]["image"] is None
    assert "green/broken.png" in found["green/broken.png"]["message"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"cursor": "x"}, "cursor"),
        ({"side": "2000"}, "side"),
        ({"limit": "101"}, "limit"),
        ({"per_class": "0"}, "per_class"),
        ({"path": ["a"] * 101}, "path"),
    ],
)
def test_what_is_not_accepted_is_named(api: Api, dataset: str, params: dict[str, Any], field: str) -> None:
    answer = ask(api, dataset, **params)
    assert answer.status_code == 422
    assert any(field in one["path"] for one in answer.json()["errors"])


def test_no_data_set(api: Api) -> None:
    assert ask(api, "0" * 64).status_code == 404
