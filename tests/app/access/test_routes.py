"""Every route with every kind of key. A route without a row here fails the first test: say who may call it.

A row is (method, path): (scope, status with that scope). The requests are sent without a body and with ids of nothing,
so that the last status is the one of a request that was let in and found wanting.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from fastapi.routing import APIRoute

from app.access.records import ADMIN, PREDICT, SCOPES, TUNE
from app.access.repository import KeyRepository, Wanted
from app.settings import AppSettings
from tests.support.api import Api, running_api
from worker.records import utcnow

PUBLIC = None
PAGES = {"/", "/docs", "/openapi.json", "/web/{path:path}"}
"""Not of the API, so not under /v1."""

ROWS: dict[tuple[str, str], tuple[str | None, int]] = {
    ("GET", "/"): (PUBLIC, 200),
    ("GET", "/docs"): (PUBLIC, 200),
    ("GET", "/openapi.json"): (PUBLIC, 200),
    ("GET", "/web/{path:path}"): (PUBLIC, 404),
    ("GET", "/livez"): (PUBLIC, 200),
    ("GET", "/readyz"): (PUBLIC, 200),
    ("GET", "/metrics"): (PUBLIC, 200),
    ("GET", "/problems"): (PUBLIC, 200),
    ("GET", "/problems/{code}"): (PUBLIC, 404),
    ("POST", "/tune"): (TUNE, 415),
    ("POST", "/datasets"): (TUNE, 415),
    ("GET", "/datasets"): (TUNE, 200),
    ("GET", "/datasets/{dataset_id}"): (TUNE, 404),
    ("DELETE", "/datasets/{dataset_id}"): (TUNE, 404),
    ("GET", "/datasets/{dataset_id}/images"): (TUNE, 404),
    ("GET", "/datasets/{dataset_id}/thumbnails"): (TUNE, 404),
    ("GET", "/datasets/{dataset_id}/change"): (TUNE, 404),
    ("POST", "/datasets/{dataset_id}/audit"): (TUNE, 404),
    ("POST", "/datasets/{dataset_id}/edit"): (TUNE, 415),
    ("GET", "/jobs"): (TUNE, 200),
    ("GET", "/jobs/{job_id}"): (TUNE, 404),
    ("GET", "/jobs/{job_id}/events"): (TUNE, 404),
    ("POST", "/jobs/{job_id}/cancel"): (TUNE, 404),
    ("GET", "/jobs/{job_id}/comparison"): (TUNE, 404),
    ("POST", "/compare"): (TUNE, 415),
    ("GET", "/jobs/{job_id}/results"): (TUNE, 404),
    ("POST", "/predict"): (PREDICT, 415),
    ("POST", "/predict/batch"): (PREDICT, 415),
    ("POST", "/embed"): (PREDICT, 415),
    ("GET", "/models"): (PREDICT, 200),
    ("GET", "/models/{model_id}"): (PREDICT, 404),
    ("GET", "/models/{model_id}/report"): (PREDICT, 404),
    ("DELETE", "/models/{model_id}"): (TUNE, 404),
    ("GET", "/models/{model_id}/feedback"): (TUNE, 404),
    ("PUT", "/models/{model_id}/feedback"): (TUNE, 422),
    ("DELETE", "/models/{model_id}/feedback"): (TUNE, 404),
    ("GET", "/models/{model_id}/feedback/items"): (TUNE, 404),
    ("GET", "/models/{model_id}/feedback/items/{item_id}/image"): (TUNE, 404),
    ("DELETE", "/models/{model_id}/feedback/items/{item_id}"): (TUNE, 404),
    ("POST", "/models/{model_id}/feedback/labels"): (TUNE, 422),
    ("POST", "/models/{model_id}/feedback/tune"): (TUNE, 404),
    ("GET", "/models/{model_id}/export"): (TUNE, 404),
    ("POST", "/models/import"): (TUNE, 415),
    ("GET", "/aliases"): (PREDICT, 200),
    ("PUT", "/aliases/{alias}"): (TUNE, 422),
    ("DELETE", "/aliases/{alias}"): (TUNE, 404),
    ("GET", "/backbones"): (PREDICT, 200),
    ("GET", "/methods"): (PREDICT, 200),
    ("POST", "/keys"): (ADMIN, 422),
    ("GET", "/keys"): (ADMIN, 200),
    ("GET", "/keys/{key_id}"): (ADMIN, 404),
    ("DELETE", "/keys/{key_id}"): (ADMIN, 404),
}

NO_KEY, WRONG, EXPIRED, REVOKED, CONFIGURED = "no key", "wrong", "expired", "revoked", "configured"
KEY_OF_THE_SETTINGS = "a-key-of-enough-letters"


@dataclass(frozen=True)
class Guarded:
    """A server with keys of every kind: name -> key, None for none."""

    api: Api
    keys: dict[str, str | None]


@pytest.fixture(scope="module")
def guarded(make_settings: Callable[..., AppSettings]) -> Iterator[Guarded]:
    with running_api(make_settings(backbone="demo", api_keys=KEY_OF_THE_SETTINGS)) as api:
        repository: KeyRepository = api.app.state.keyring.repository
        keys: dict[str, str | None] = {NO_KEY: None, WRONG: "npt_" + "0" * 26 + "_" + "A" * 43}
        keys |= {scope: repository.create(Wanted((scope,)), by="test")[1] for scope in SCOPES}
        soon = utcnow() + timedelta(milliseconds=300)
        _, keys[EXPIRED] = repository.create(Wanted(SCOPES, expires_at=soon), by="test")
        revoked, keys[REVOKED] = repository.create(Wanted(SCOPES), by="test")
        repository.revoke(revoked.id, by="test")
        keys[CONFIGURED] = KEY_OF_THE_SETTINGS
        api.app.state.keyring.refresh()
        while utcnow() < soon:
            pass
        yield Guarded(api, keys)


def routes(app: object) -> Iterator[tuple[str, str]]:
    """(method, path) of every route, however it was included."""

    def walk(entries: object, prefix: str = "") -> Iterator[tuple[str, str]]:
        for route in entries:  # type: ignore[attr-defined]
            if isinstance(route, APIRoute) or getattr(route, "methods", None):
                for method in sorted(route.methods - {"HEAD", "OPTIONS"}):
                    yield method, prefix + route.path
            else:
                yield from walk(route.original_router.routes, prefix + route.include_context.prefix)

    yield from walk(app.routes)  # type: ignore[attr-defined]


def test_every_route_has_a_row_and_every_row_a_route(guarded: Guarded) -> None:
    found = set(routes(guarded.api.app))
    plain = {(method, path) for method, path in found if not path.startswith("/v1/")}
    assert sorted(plain - set(ROWS)) == [], "routes without a row in ROWS: who may call them?"
    assert sorted(set(ROWS) - plain) == [], "rows without a route"
    versioned = {(method, path.removeprefix("/v1")) for method, path in found if path.startswith("/v1/")}
    assert versioned == {row for row in ROWS if row[1] not in PAGES}


def test_the_document_says_of_each_whether_it_needs_a_key(guarded: Guarded) -> None:
    for path, operations in guarded.api.app.openapi()["paths"].items():
        for method, operation in operations.items():
            scope, _ = ROWS[method.upper(), path]
            assert (operation["security"] == []) == (scope is PUBLIC), (method, path)
            assert "401" in operation["responses"] or scope is PUBLIC, (method, path)
            assert "403" in operation["responses"] or scope is PUBLIC, (method, path)


@pytest.mark.parametrize("prefix", ["", "/v1"])
@pytest.mark.parametrize("who", [NO_KEY, WRONG, EXPIRED, REVOKED, *SCOPES, CONFIGURED])
def test_who_may_call_what(guarded: Guarded, who: str, prefix: str) -> None:
    key = guarded.keys[who]
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    wrong = []
    for (method, path), (scope, status) in ROWS.items():
        if prefix and path in PAGES:
            continue
        answer = guarded.api.client.request(method, prefix + path.replace("{", "no-").replace("}", ""), headers=headers)
        if scope is PUBLIC:
            expected = status
        elif who in (NO_KEY, WRONG, EXPIRED, REVOKED):
            expected = 401
        else:
            expected = status if who in (scope, ADMIN, CONFIGURED) else 403
        if answer.status_code != expected:
            wrong.append((method, path, answer.status_code, expected))
        if expected in (401, 403):
            assert answer.headers["www-authenticate"].startswith('Bearer realm="npt-service"'), path
            assert answer.headers["content-type"] == "application/problem+json"
            assert answer.json()["code"] == ("unauthorized" if expected == 401 else "forbidden")
            assert str(key) not in answer.text
    assert wrong == []


def test_the_refusal_says_why_to_who_holds_the_key(guarded: Guarded) -> None:
    def refusal(who: str) -> tuple[str, str]:
        answer = guarded.api.client.get("/jobs", headers={"X-API-Key": guarded.keys[who] or ""})
        return answer.json()["detail"], answer.headers["www-authenticate"]

    assert "is expired" in refusal(EXPIRED)[0]
    assert "is revoked" in refusal(REVOKED)[0]
    assert "not known" in refusal(WRONG)[0]
    assert 'error="invalid_token"' in refusal(REVOKED)[1]
    almost = (guarded.keys[REVOKED] or "")[:-1] + "~"
    assert "not known" in guarded.api.client.get("/jobs", headers={"X-API-Key": almost}).json()["detail"]
    assert "none was sent" in guarded.api.client.get("/jobs").json()["detail"]


def test_what_is_missing_is_named(guarded: Guarded) -> None:
    answer = guarded.api.client.get("/jobs", headers={"X-API-Key": guarded.keys[PREDICT] or ""})
    assert answer.status_code == 403
    assert "lacks the scope tune" in answer.json()["detail"]
    assert answer.headers["www-authenticate"].endswith('error="insufficient_scope", scope="tune"')
