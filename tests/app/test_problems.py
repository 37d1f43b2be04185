"""Every error is a problem document: ours, the framework's, the lower floors', and our own mistakes."""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
from typing import Any

import httpx
import pytest
import structlog.testing

import npt_core.errors
import worker.errors
from app import problems
from app.problems import KINDS
from npt_core.errors import Fault, NPTError, OverloadedError
from tests.support.api import Api
from worker.store.base import StoreRefused, StoreUnavailable


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert body["status"] == status
    assert body["code"] == code
    assert body["type"] == f"/problems/{code}"
    assert body["title"]
    assert body["detail"]
    assert "Traceback" not in answer.text
    return body


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not-found"),
        ("GET", "/v1", 404, "not-found"),
        ("GET", "/v2/jobs", 404, "not-found"),
        ("GET", "/jobs/", 404, "not-found"),
        ("DELETE", "/jobs", 405, "method-not-allowed"),
        ("PUT", "/v1/tune", 405, "method-not-allowed"),
        ("GET", "/predict", 405, "method-not-allowed"),
        ("GET", "/jobs?limit=0", 422, "invalid-request"),
        ("GET", "/jobs?limit=many", 422, "invalid-request"),
        ("GET", "/jobs?status=odd", 422, "invalid-request"),
        ("GET", "/jobs/" + "x" * 200, 422, "invalid-request"),
        ("GET", "/problems/none", 404, "not-found"),
        ("GET", "/web/none.js", 404, "not-found"),
        ("GET", "/web/..%2Findex.html", 404, "not-found"),
    ],
)
def test_what_the_router_and_validation_refuse(plain: Api, method: str, path: str, status: int, code: str) -> None:
    body = problem(plain.client.request(method, path), status, code)
    assert body["instance"] == httpx.URL(path).path


def test_validation_names_every_field(plain: Api) -> None:
    body = problem(plain.client.get("/jobs?limit=0&status=odd"), 422, "invalid-request")
    assert {entry["path"] for entry in body["errors"]} == {"limit", "status"}


def test_a_405_says_what_is_accepted(plain: Api) -> None:
    assert "GET" in plain.client.post("/models").headers["allow"]


@pytest.mark.parametrize("kind", ["jobs", "models", "datasets"])
@pytest.mark.parametrize(
    "name",
    ["job_0", "..%2f..%2fetc%2fpasswd", "%00", "a%0ab", "~", "%2e%2e", "con", "job_" + "z" * 26, "*", "'; --"],
)
def test_ids_that_never_were_one(plain: Api, kind: str, name: str) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("GET", "/events"), ("POST", "/cancel"), ("GET", "/report")):
        answer = plain.client.request(method, f"/{kind}/{name}{path}")
        assert answer.status_code in (404, 405), answer.text
        assert answer.headers["content-type"] == "application/problem+json"


def every_error() -> list[type[NPTError]]:
    """The error classes of the lower floors, wherever they are defined."""
    modules = [npt_core.errors, worker.errors]
    found = {cls for module in modules for _, cls in inspect.getmembers(module, inspect.isclass)}
    return sorted((cls for cls in found if issubclass(cls, NPTError)), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", every_error(), ids=lambda cls: cls.__name__)
def test_every_deliberate_error_has_a_status_or_is_never_an_answer(cls: type[NPTError]) -> None:
    never_answers = {"error", "worker", "stopped", "lease-lost", "drained"}
    assert cls.code in KINDS or cls.code in never_answers


def test_kinds_are_served(plain: Api) -> None:
    listed = plain.client.get("/problems").json()
    assert {entry["code"] for entry in listed} == set(KINDS)
    one = plain.client.get("/problems/invalid-archive").json()
    assert one["status"] == 422
    assert one["type"] == "/problems/invalid-archive"


def test_faults_are_listed_up_to_a_bound() -> None:
    body = problems.as_dict("invalid-archive", "x", [Fault(f"{n}.png", "bad") for n in range(1500)])
    assert len(body["errors"]) == problems.MAX_FAULTS
    assert body["errors_left_out"] == 500


def test_text_that_is_no_unicode_survives() -> None:
    answer = problems.response("invalid-archive", "name \udcff", [Fault("\ud800.png", "odd")])
    assert answer.status_code == 422
    assert b"odd" in answer.body


def test_an_overload_says_when_to_come_again() -> None:
    answer = problems.from_error(OverloadedError("full", 2.4))
    assert answer.headers["Retry-After"] == "2"
    assert problems.from_error(OverloadedError("full", 0.1)).headers["Retry-After"] == "1"


@pytest.mark.parametrize(
    ("error", "status", "code", "again"),
    [
        (StoreUnavailable("of a bucket"), 503, "not-ready", "5"),
        (StoreRefused("of a bucket"), 500, "store-refused", None),
    ],
)
def test_a_store_that_does_not_answer_is_asked_again_and_one_that_refuses_is_not(
    plain: Api, monkeypatch: pytest.MonkeyPatch, error: OSError, status: int, code: str, again: str | None
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(plain.services.jobs, "list", fail)
    answer = plain.client.get("/jobs")
    problem(answer, status, code)
    assert answer.headers.get("Retry-After") == again
    assert "of a bucket" not in answer.text


class TestOurMistakes:
    SECRET = "the-password-of-the-database"

    @pytest.fixture
    def broken(self, plain: Api, monkeypatch: pytest.MonkeyPatch) -> Api:
        def fail(*_: object, **__: object) -> None:
            raise RuntimeError(self.SECRET)

        monkeypatch.setattr(plain.services.jobs, "list", fail)
        return plain

    def test_tell_nothing(self, broken: Api) -> None:
        answer = broken.client.get("/jobs", headers={"X-Request-ID": "my-request-1"})
        problem(answer, 500, "internal-error")
        assert self.SECRET not in answer.text
        assert "RuntimeError" not in answer.text
        assert answer.headers["x-request-id"] == "my-request-1"
        assert answer.headers["x-content-type-options"] == "nosniff"

    def test_are_logged_once_with_the_request_and_without_the_key(
        self, broken: Api, caplog: pytest.LogCaptureFixture
    ) -> None:
        headers = {"X-Request-ID": "my-request-2", "Authorization": "Bearer npt_a-key-that-is-nobodys-business"}
        broken.client.get("/jobs", headers=headers)
        told = [record.getMessage() for record in caplog.records if "RuntimeError" in record.getMessage()]
        assert len(told) == 1
        line = json.loads(told[0])
        assert (line["event"], line["request"], line["path"]) == ("unforeseen error", "my-request-2", "/jobs")
        assert "nobodys-business" not in caplog.text

    def test_are_logged_and_counted(self, broken: Api) -> None:
        with structlog.testing.capture_logs() as lines:
            broken.client.get("/jobs")
        assert any(line["event"] == "unforeseen error" for line in lines)
        assert 'npt_http_requests_total{method="GET",path="/jobs",status="500"}' in broken.client.get("/metrics").text


def test_no_module_prints_or_keeps_state_at_import() -> None:
    import app

    for module in pkgutil.walk_packages(app.__path__, "app."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
