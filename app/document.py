"""The OpenAPI document: the framework's, with our problems in place of its validation errors."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from app.problems import MEDIA_TYPE
from app.schemas import Problem

_REFERENCE = {"$ref": f"#/components/schemas/{Problem.__name__}"}
_FRAMEWORK = ("HTTPValidationError", "ValidationError")


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
    for operations in schema["paths"].values():
        for operation in operations.values():
            invalid = operation["responses"].get("422")
            if invalid and "application/json" in invalid.get("content", {}):  # the framework's own
                operation["responses"]["422"] = {
                    "description": "Values that are not accepted; `errors` lists each",
                    "content": {MEDIA_TYPE: {"schema": _REFERENCE}},
                }
    components = schema["components"]["schemas"]
    for name in _FRAMEWORK:
        components.pop(name, None)
    problem = Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    components.update(problem.pop("$defs", {}))
    components[Problem.__name__] = problem
    return schema
