"""No path is made of what somebody wrote: not of ids, names, files of a form, cursors, or settings of a job."""

from __future__ import annotations

import json
import re
from urllib.parse import quote

import httpx
import pytest

from app.main import create_app
from app.settings import AppSettings
from tests.security.conftest import Target
from tests.security.corpus.case import GOOD
from tests.support.service import wait_for
from tests.support.zips import raw_zip

UP = (
    "../../../../etc/passwd",
    "..%2f..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/etc/passwd",
    "%252e%252e%252fetc%252fpasswd",
    "..%5c..%5cwindows%5cwin.ini",
    "..%c0%af..%c0%afetc/passwd",
    "%2fetc%2fpasswd",
    "file:%2f%2f%2fetc%2fpasswd",
    "%00",
    "run%2fservice.json",
    "..%2fkeys%2f",
    "con",
    "a" * 3000,
)
WORDS = (
    "../../../etc/passwd",
    "/etc/passwd",
    "..\\..\\x",
    "C:\\x",
    "a\0b",
    "run/service.json",
    "~root",
    "$(id)",
    "`id`",
    "-rf",
)

ROUTES = sorted(
    (method.upper(), path)
    for path, operations in create_app(AppSettings()).openapi()["paths"].items()
    if "{" in path
    for method in operations
)


@pytest.mark.parametrize(("method", "path"), ROUTES, ids=[" ".join(route) for route in ROUTES])
def test_an_id_is_matched_before_it_is_looked_for(target: Target, method: str, path: str) -> None:
    files = target.files()
    for text in UP:
        raw = re.sub(r"{\w+}", lambda _, text=text: text, path)
        url = httpx.URL(target.service.url, raw_path=raw.encode())  # as it is: a client would tidy it up
        answer = target.client.request(method, url)
        assert answer.status_code in (400, 404, 405, 413, 415, 422), (raw, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
        assert "root:" not in answer.text
        assert str(target.service.data) not in answer.text
    assert target.files() == files


@pytest.mark.parametrize("path", ["/web/", "/docs/", "/v1/web/", "/"])
def test_files_of_the_page_are_those_of_a_list(target: Target, path: str) -> None:
    for text in UP:
        url = httpx.URL(target.service.url, raw_path=(path + text).encode())
        answer = target.client.get(url)
        assert answer.status_code in (400, 404), (url, answer.text[:200])
        assert "root:" not in answer.text


@pytest.mark.parametrize("word", WORDS)
def test_names_and_fields_are_words(target: Target, word: str) -> None:
    """Wherever a request has a text: it is refused, or kept as text, and no file is called by it."""
    client = target.client
    zipped = raw_zip(GOOD)
    stored = client.post("/datasets?audit=false", files={"file": (word.replace("\0", ""), zipped)})
    assert stored.is_success
    dataset = stored.json()["id"]
    config = {"epochs": 1, "method": "zero_shot"}
    answers = [
        client.put(f"/aliases/{quote(word, safe='')}", json={"model": "model_" + "0" * 26}),
        client.put("/aliases/a", json={"model": word}),
        client.get("/jobs", params={"cursor": word}),
        client.get("/datasets", params={"cursor": word}),
        client.get(f"/datasets/{dataset}/images", params={"label": word, "split": word[:10]}),
        client.post(f"/datasets/{dataset}/edit", json={"remove": [word]}),
        client.post(f"/datasets/{dataset}/audit", params={"backbone": word}),
        client.post("/tune", data={"dataset_id": word}),
        client.post("/tune", data={"dataset_id": dataset, "config": json.dumps(config | {"parent": word})}),
        client.post("/tune", data={"dataset_id": dataset, "config": json.dumps(config | {"backbone": word})}),
        client.post("/tune", data={"dataset_id": dataset, "config": json.dumps(config | {"method": word})}),
        client.post("/tune", data={"dataset_id": dataset}, headers={"Idempotency-Key": word.encode().hex() + "/../x"}),
        client.post("/models/import", files={"file": (word.replace("\0", ""), zipped)}, data={"name": word}),
        client.post("/keys", json={"scopes": ["predict"], "label": word}),
        client.get("/jobs", headers={"X-Request-ID": word.replace("\0", "")}),
    ]
    assert not [answer for answer in answers if answer.status_code >= 500]
    jobs = [answer.json()["id"] for answer in answers if answer.status_code == 202]
    for job in jobs:
        client.post(f"/jobs/{job}/cancel")
    for job in jobs:
        wait_for("the job to end", lambda job=job: _ended(target, job), 120)
    made = [answer.json()["id"] for answer in answers if answer.status_code == 201 and "scopes" in answer.text]
    assert all(client.delete(f"/keys/{key}").status_code == 204 for key in made)
    marks = {part for part in re.split(r"[/\\\0]", word) if part not in ("", "..", "etc", "run", "C:")}
    for path in target.service.data.rglob("*"):
        where = path.relative_to(target.service.data)
        assert not marks & set(where.parts) or where.parts[0] in ("run", "weights"), path
    wait_for("nothing to need it", lambda: client.delete(f"/datasets/{dataset}").status_code in (204, 404), 60)


def _ended(target: Target, job: str) -> bool:
    return target.client.get(f"/jobs/{job}").json()["status"] in ("succeeded", "failed", "cancelled")
