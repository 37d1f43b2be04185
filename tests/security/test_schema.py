"""The OpenAPI document as a source of requests: what it promises is what happens, with a key and without.

Every operation gets requests that fit its schema and requests that do not. No answer may be a fault of the server, of a
status, type or form that the document does not name; what needs a key is refused without one. One check is left out,
`positive_data_acceptance`: a file of random bytes fits "a file" and is no zip, an id of the right form is nobody's.
"""

from __future__ import annotations

import os
from typing import Any

import pytest

from app.main import create_app
from app.settings import AppSettings
from tests.security.conftest import KEY, Target

schemathesis = pytest.importorskip("schemathesis")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = int(os.environ.get("NPT_SCHEMA_EXAMPLES", "6"))
"""Of each operation, with a key and without; `make fuzz` draws more."""

DOCUMENT = create_app(AppSettings()).openapi()
SCHEMA = schemathesis.openapi.from_dict(DOCUMENT)
OPERATIONS = sorted((path, method) for path, operations in DOCUMENT["paths"].items() for method in operations)
BOUNDED = hypothesis.settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(hypothesis.HealthCheck),
    database=None,
)
LEFT_OUT = [schemathesis.checks.CHECKS.get_one("positive_data_acceptance")]


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_with_a_key_every_answer_is_a_documented_one(target: Target, path: str, method: str) -> None:
    @BOUNDED
    @hypothesis.given(case=SCHEMA[path][method.upper()].as_strategy())
    def ask(case: Any) -> None:
        case.call_and_validate(
            base_url=target.service.url, headers={"X-API-Key": KEY}, excluded_checks=LEFT_OUT, timeout=120
        )

    ask()


@pytest.mark.parametrize(("path", "method"), OPERATIONS)
def test_without_a_key_nothing_private_is_answered(target: Target, path: str, method: str) -> None:
    needs_one = DOCUMENT["paths"][path][method]["security"] != []

    @BOUNDED
    @hypothesis.given(case=SCHEMA[path][method.upper()].as_strategy())
    def ask(case: Any) -> None:
        answer = case.call(base_url=target.service.url, timeout=120)
        assert answer.status_code < 500
        if needs_one and answer.status_code != 400:  # 400: what is no HTTP has no key to look at
            assert answer.status_code == 401, answer.text

    ask()
