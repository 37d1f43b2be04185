"""The OpenAPI document: every operation named, tagged, explained, with true examples, its errors, its security."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from app.main import create_app
from app.problems import KINDS, MEDIA_TYPE
from app.settings import AppSettings

PUBLIC = {"livez", "readyz", "metrics", "list_problems", "get_problem"}
DOCUMENT: dict[str, Any] = create_app(AppSettings()).openapi()
OPERATIONS = [
    (f"{method} {path}", operation)
    for path, operations in DOCUMENT["paths"].items()
    for method, operation in operations.items()
]
every_operation = pytest.mark.parametrize("operation", [one for _, one in OPERATIONS], ids=[id for id, _ in OPERATIONS])


def component(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    name = schema.get("$ref", "").rpartition("/")[2]
    return DOCUMENT["components"]["schemas"][name] if name else schema


def examples(content: Mapping[str, Any]) -> list[Any]:
    """Every example of a body, wherever it stands."""
    found = [one["value"] for one in content.get("examples", {}).values()]
    for where in (content, content["schema"], component(content["schema"])):
        found += [where["example"]] if "example" in where else []
        found += where["examples"] if isinstance(where.get("examples"), list) else []
    return found


def is_file(content: Mapping[str, Any]) -> bool:
    return content["schema"].get("format") == "binary"


def bodies(operation: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(where, body) of the request and of every answer."""
    for kind, content in operation.get("requestBody", {}).get("content", {}).items():
        yield f"request {kind}", content
    for status, answer in operation["responses"].items():
        for kind, content in answer.get("content", {}).items():
            yield f"{status} {kind}", content


def test_names_are_unique() -> None:
    names = [operation["operationId"] for _, operation in OPERATIONS]
    assert len(set(names)) == len(names)


@every_operation
def test_is_named_tagged_and_explained(operation: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", operation["operationId"])
    described = {tag["name"]: tag["description"] for tag in DOCUMENT["tags"]}
    assert len(operation["tags"]) == 1
    assert described[operation["tags"][0]]
    summary, description = operation["summary"], operation["description"]
    assert len(summary) > 10
    assert summary != operation["operationId"].replace("_", " ").title()  # what the framework makes up
    assert not summary.endswith(".")
    assert description.startswith(summary)


@every_operation
def test_every_body_has_an_example_but_bare_files(operation: dict[str, Any]) -> None:
    for where, content in bodies(operation):
        assert is_file(content) or examples(content), where


@every_operation
def test_examples_are_what_their_schemas_say(operation: dict[str, Any]) -> None:
    for where, content in bodies(operation):
        schema = {**content["schema"], "components": DOCUMENT["components"]}
        for example in examples(content):
            faults = [f"{where}: {fault.message}" for fault in Draft202012Validator(schema).iter_errors(example)]
            assert faults == []


@every_operation
def test_errors_are_problems_of_their_status(operation: dict[str, Any]) -> None:
    errors = {status: answer for status, answer in operation["responses"].items() if status[0] in "45"}
    for status, answer in errors.items():
        if (operation["operationId"], status) == ("readyz", "503"):  # the second of its two answers
            continue
        assert list(answer["content"]) == [MEDIA_TYPE], status
        content = answer["content"][MEDIA_TYPE]
        assert content["schema"] == {"$ref": "#/components/schemas/Problem"}
        assert content["example"]["status"] == int(status)
        assert content["example"]["code"] in KINDS
        assert answer["description"]
    parameters = operation.get("parameters", [])
    if operation["operationId"] not in PUBLIC:
        assert {"401", "403", "429"} <= set(errors)
        if any("/{" in path for path, one in DOCUMENT["paths"].items() if operation in one.values()):
            assert "404" in errors
    if any(one["in"] == "query" for one in parameters):
        assert "422" in errors


@every_operation
def test_security_is_declared(operation: dict[str, Any]) -> None:
    known = set(DOCUMENT["components"]["securitySchemes"])
    needed = {name for one in operation["security"] for name in one}
    assert needed <= known
    assert bool(needed) == (operation["operationId"] not in PUBLIC)


def test_every_reference_leads_somewhere_and_nothing_is_there_for_nobody() -> None:
    text = str(DOCUMENT)
    for name in re.findall(r"#/components/schemas/([\w-]+)", text):
        assert name in DOCUMENT["components"]["schemas"]
    used = set(re.findall(r"#/components/schemas/([\w-]+)", text))
    assert set(DOCUMENT["components"]["schemas"]) - used == set()
