"""The OpenAPI document: the framework's, with our problems in place of its validation errors, summaries that are
sentences, an example for every body, and what needs no key said to need none.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.examples import example_of, form_example, has_example, is_binary, with_nulls
from app.problems import MEDIA_TYPE
from app.routes.answers import problem_body
from app.schemas import Problem

_FRAMEWORK = ("HTTPValidationError", "ValidationError")
_FORMS = ("multipart/form-data", "application/x-www-form-urlencoded")


def install(app: FastAPI) -> None:
    """Have `app.openapi()` answer with the document; made once."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _make(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _make(app: FastAPI) -> dict[str, Any]:
    schema = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        description=app.description,
        routes=app.routes,
        tags=app.openapi_tags,
    )
    components = schema["components"]["schemas"]
    for name in _FRAMEWORK:
        components.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.update(problem.pop("$defs", {}))
    components[Problem.__name__] = problem
    for component in components.values():
        if "example" in component:
            component["example"] = with_nulls(component["example"], component, components)
    for operations in schema["paths"].values():
        for operation in operations.values():
            _mend(operation, components)
    return schema


def _mend(operation: dict[str, Any], components: dict[str, Any]) -> None:
    operation["summary"] = operation["description"].partition("\n")[0].rstrip(".")
    operation.setdefault("security", [])  # none is needed
    invalid = operation["responses"].get("422")
    if invalid and "application/json" in invalid.get("content", {}):  # the framework's own
        operation["responses"]["422"] = {
            "description": "Values that are not accepted; `errors` lists each",
            "content": {MEDIA_TYPE: problem_body(422)},
        }
    for kind, content in _bodies(operation):
        if is_binary(content) or has_example(content, components):
            continue
        make = form_example if kind in _FORMS else example_of
        content["example"] = make(content["schema"], components)


def _bodies(operation: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    yield from operation.get("requestBody", {}).get("content", {}).items()
    for answer in operation["responses"].values():
        yield from answer.get("content", {}).items()
