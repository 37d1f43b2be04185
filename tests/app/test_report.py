"""`GET /models/{id}/report`: as data and as a page, also of models that strangers made."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from app.settings import AppSettings
from npt_core.report.page import content_policy
from tests.support.api import Api, running_api, store_model
from tests.support.bundles import rezipped
from tests.support.pages import Page

BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"}
REPRODUCE = {"dataset_id": "ab" * 32, "config": {"backbone": "tiny", "method": "coop"}}


@pytest.fixture(scope="module")
def model(api: Api, towers: tuple[str, str]) -> str:
    return store_model(api.services, towers[0], name="<i>colours</i>")


def imported(api: Api, model: str, report: Any, tmp_path: Any) -> str:
    """A model whose report somebody wrote by hand; `report` is JSON, or the bytes of something like it."""
    path = tmp_path / "model.zip"
    path.write_bytes(api.client.get(f"/models/{model}/export").content)
    data = report if isinstance(report, bytes) else json.dumps(report).encode()
    changed = rezipped(path, lambda files: files.update({"report.json": data}))
    answer = api.client.post("/models/import", content=changed, headers={"Content-Type": "application/zip"})
    assert answer.status_code in (200, 201), answer.text
    return str(answer.json()["id"])


def page_of(answer: httpx.Response) -> Page:
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["vary"] == "Accept"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-security-policy"] == f"{content_policy()}; frame-ancestors 'none'"
    return Page(answer.text)


@pytest.mark.parametrize("prefix", ["", "/v1"])
def test_who_asks_for_html_gets_a_page_and_everybody_else_json(api: Api, model: str, prefix: str) -> None:
    path = f"{prefix}/models/{model}/report"
    for headers, params in ((BROWSER, {}), ({"Accept": "application/json"}, {"format": "html"})):
        page = page_of(api.client.get(path, headers=headers, params=params))
        assert page.text("h1", "bdi")[0] == "<i>colours</i>, version 1"
        assert "100.0\xa0%" in page.text()
    for headers, params in (({"Accept": "*/*"}, {}), ({}, {}), (BROWSER, {"format": "json"})):
        answer = api.client.get(path, headers=headers, params=params)
        assert answer.headers["content-type"] == "application/json"
        assert answer.headers["vary"] == "Accept"
        assert answer.json()["metrics"]["tuned"]["accuracy"] == 1.0
    head = api.client.head(path, headers=BROWSER)
    assert head.status_code == 405
    assert api.client.get(path, params={"format": "pdf"}).status_code == 422
    assert api.client.get(f"{prefix}/models/model_0/report", headers=BROWSER).status_code == 404


def test_commands_that_a_stranger_wrote_are_never_handed_out(api: Api, model: str, tmp_path: Any) -> None:
    known = imported(api, model, {"reproduce": {"commands": {"curl": "rm -rf /"}, "device": "cpu"}}, tmp_path)
    assert api.client.get(f"/models/{known}/report").json()["reproduce"] == {"commands": None, "device": "cpu"}


def test_the_commands_speak_to_the_server_that_was_asked(api: Api, model: str, tmp_path: Any) -> None:
    stranger = {"reproduce": {**REPRODUCE, "commands": {"curl": "rm -rf /", "python": "import os"}}}
    known = imported(api, model, stranger, tmp_path)
    report = api.client.get(f"/models/{known}/report").json()
    assert report["reproduce"]["config"] == REPRODUCE["config"]
    words = shlex.split(report["reproduce"]["commands"]["curl"].replace("\\\n", ""))
    assert words[-1] == f"{api.url}/tune"
    assert json.loads(words[4].removeprefix("config=")) == REPRODUCE["config"]
    page = page_of(api.client.get(f"/models/{known}/report", headers=BROWSER))
    assert page.text("pre")[0] == report["reproduce"]["commands"]["curl"]
    assert "rm -rf" not in json.dumps(report) + "".join(page.text())


@pytest.mark.parametrize(
    "report",
    [
        {},
        {"metrics": {"tuned": None, "zero_shot": {"accuracy": "<script>"}}},
        {"metrics": {"tuned": {"accuracy": [], "per_class": {"a": 1}, "confusion": [[1], 2]}}, "warnings": [1, {}]},
        b'{"metrics": {"tuned": {"accuracy": NaN, "nll": Infinity, "count": 1e999}}, "history": [{"epoch": NaN}]}',
        b'{"metrics": {"tuned": {"accuracy": 0.5, "count": ' + b"9" * 4000 + b"}}}",
        {"examples": {"wrong": [{"image": "https://evil.example/x.png", "label": "<b>", "path": 3}]}},
        {
            "reproduce": {"config": 3, "dataset_id": ["x"]},
            "calibration": {"before": 3, "bins": 1},
            "audit": [],
            "unknown": {"a": None},
        },
    ],
    ids=range(7),
)
def test_whatever_an_imported_report_says_there_is_a_page_and_json(
    api: Api, model: str, report: Any, tmp_path: Any
) -> None:
    known = imported(api, model, report, tmp_path)
    page = page_of(api.client.get(f"/models/{known}/report", headers=BROWSER))
    assert "not known" in "".join(page.text())
    assert page.images == []
    answer = api.client.get(f"/models/{known}/report")
    assert answer.status_code == 200
    json.loads(answer.text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


@pytest.fixture
def guarded(make_settings: Any) -> Iterator[tuple[Api, AppSettings]]:
    settings = make_settings(backbone="demo", api_keys="a-key-of-enough-letters")
    with running_api(settings) as running:
        yield running, settings


def test_a_page_needs_a_key_too(guarded: tuple[Api, AppSettings]) -> None:
    running, _ = guarded
    refused = running.client.get("/models/model_0/report", headers=BROWSER, params={"format": "html"})
    assert refused.status_code == 401
    assert refused.headers["content-type"] == "application/problem+json"
    known = {**BROWSER, "X-API-Key": "a-key-of-enough-letters"}
    assert running.client.get("/models/model_0/report", headers=known).status_code == 404
