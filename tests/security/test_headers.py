"""Every kind of answer says how a browser may use it: not as another type, not in a frame, nothing run from it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.security.conftest import KEY, Target
from tests.security.corpus.case import GOOD, PREDICT
from tests.support.zips import picture, raw_zip

NO_JOB, NO_MODEL = "job_" + "0" * 26, "model_" + "0" * 26

ANSWERS: dict[str, tuple[str, str, int, dict[str, Any]]] = {
    "data": ("GET", "/jobs", 200, {}),
    "page": ("GET", "/", 200, {}),
    "documentation": ("GET", "/docs", 200, {}),
    "document": ("GET", "/openapi.json", 200, {}),
    "script": ("GET", "/web/js/main.js", 200, {}),
    "style": ("GET", "/web/css/base.css", 200, {}),
    "picture-of-the-page": ("GET", "/web/icon.svg", 200, {}),
    "zip-of-the-page": ("GET", "/web/samples/digits.zip", 200, {}),
    "metrics": ("GET", "/metrics", 200, {}),
    "alive": ("GET", "/livez", 200, {}),
    "ready": ("GET", "/readyz", 200, {}),
    "head": ("HEAD", "/livez", 405, {}),
    "no-key": ("GET", "/jobs", 401, {"headers": {"X-API-Key": ""}}),
    "wrong-key": ("GET", "/jobs", 401, {"headers": {"X-API-Key": "x" * 40}}),
    "another-site": ("GET", "/jobs", 403, {"headers": {"Origin": "https://evil.example"}}),
    "another-site-asks-first": ("OPTIONS", "/jobs", 403, {"headers": {"Origin": "https://evil.example"}}),
    "two-hosts": ("GET", "/jobs", 400, {"headers": {"Host": "a b"}}),
    "no-path": ("GET", "/nothing", 404, {}),
    "no-job": ("GET", f"/jobs/{NO_JOB}", 404, {}),
    "no-events": ("GET", f"/jobs/{NO_JOB}/events", 404, {}),
    "no-report": ("GET", f"/models/{NO_MODEL}/report", 404, {"headers": {"Accept": "text/html"}}),
    "no-method": ("PATCH", "/jobs", 405, {}),
    "no-type": ("POST", "/datasets", 415, {"json": {}}),
    "no-sense": ("GET", "/jobs?limit=0", 422, {}),
    "no-json": ("PUT", "/aliases/a", 422, {"content": b"{", "headers": {"Content-Type": "application/json"}}),
    "no-zip": ("POST", "/datasets", 422, {"content": b"x", "headers": {"Content-Type": "application/zip"}}),
    "too-large": ("PUT", "/aliases/a", 413, {"content": b" " * 2_000_000}),
    "predictions": ("POST", PREDICT, 200, {"content": picture(1), "headers": {"Content-Type": "image/png"}}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_every_answer_has_the_safe_headers(target: Target, name: str) -> None:
    method, path, status, options = ANSWERS[name]
    answer = target.client.request(method, path, **options)
    assert answer.status_code == status, answer.text
    headers = answer.headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    policy = _policy(headers)
    assert policy["default-src"] == ["'none'"]
    assert policy["frame-ancestors"] == ["'none'"]
    assert policy["base-uri"] == ["'none'"]
    scripts = policy.get("script-src", [])
    assert "'unsafe-inline'" not in scripts
    assert "'unsafe-eval'" not in scripts
    assert not any(one.startswith(("http:", "https:", "data:", "*")) for one in scripts)
    assert "access-control-allow-origin" not in headers
    assert "set-cookie" not in headers
    assert "x-powered-by" not in headers
    if status >= 400 and method != "HEAD":
        assert headers["content-type"] == "application/problem+json"


def _policy(headers: httpx.Headers) -> dict[str, list[str]]:
    parts = (part.split() for part in headers["content-security-policy"].split(";"))
    return {part[0]: part[1:] for part in parts if part}


@pytest.fixture(scope="module")
def thumbnails(target: Target) -> Iterator[str]:
    answer = target.client.post("/datasets?audit=false", files={"file": ("good.zip", raw_zip(GOOD))})
    assert answer.is_success, answer.text
    yield f"/datasets/{answer.json()['id']}/thumbnails"
    target.client.delete(f"/datasets/{answer.json()['id']}")


def test_pictures_of_strangers_are_drawn_anew_and_may_run_nothing(target: Target, thumbnails: str) -> None:
    answer = target.client.get(thumbnails)
    assert answer.status_code == 200
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert _policy(answer.headers)["default-src"] == ["'none'"]
    assert not any(one.data in answer.content for one in GOOD)  # not a byte of them as it was sent


@pytest.mark.parametrize("name", ["X-Injected: yes", "a\r\nX-Injected: yes", "%0d%0aX-Injected:%20yes"])
def test_no_text_of_a_request_becomes_a_header(target: Target, name: str) -> None:
    for path in (f"/aliases/{name}", f"/jobs/{name}", f"/nothing/{name}"):
        answer = target.client.get(httpx.URL(target.service.url).join(path.replace("\r", "%0d").replace("\n", "%0a")))
        assert "x-injected" not in answer.headers
    files = {"file": (name, raw_zip(GOOD))}
    answer = target.client.post("/datasets?audit=false", files=files, headers={"X-API-Key": KEY})
    assert "x-injected" not in answer.headers
    target.client.delete(f"/datasets/{answer.json()['id']}")
