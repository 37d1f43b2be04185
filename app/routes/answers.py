"""What OpenAPI says of answers that are problems, and of parameters that several routes share."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query

from app import schemas
from app.problems import BY_STATUS, KINDS, MEDIA_TYPE, as_dict

_TEXTS: dict[int, str] = {
    400: "The request cannot be read",
    401: "A valid API key is needed",
    403: "The request is not allowed: key, Host or Origin",
    404: "There is no such thing",
    408: "The request stopped arriving",
    409: "The state of the thing forbids this",
    410: "It was there, and was removed",
    413: "The request is too large",
    415: "Another content type is needed",
    422: "The content cannot be used; `errors` lists every fault",
    429: "This API key sends too many requests, or has uploaded what it may for today; see Retry-After",
    501: "This server lacks a package that this needs",
    503: "The server is full or not ready; see Retry-After",
    507: "The store is full: the data volume, or what it may hold",
}


def problem_body(status: int) -> dict[str, Any]:
    """What OpenAPI says of the body of a problem: its schema, and what one of that status looks like."""
    code = BY_STATUS[status]
    example = as_dict(code, KINDS[code].remedy, status=status)
    return {"schema": {"$ref": f"#/components/schemas/{schemas.Problem.__name__}"}, "example": example}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route that needs a key and can answer with these problems."""
    retry = {"headers": {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}}
    return {
        status: {
            "description": _TEXTS[status],
            "content": {MEDIA_TYPE: problem_body(status)},
            **(retry if status in (429, 503) else {}),
        }
        for status in sorted({401, 403, 429, *statuses})
    }


Limit = Annotated[int, Query(ge=1, le=200, description="Most items on the page.")]
Cursor = Annotated[str | None, Query(max_length=200, description="`next_cursor` of the page before.")]
JobId = Annotated[str, Path(max_length=100, description="Id of a job.", examples=[schemas.JOB_ID])]
ModelId = Annotated[str, Path(max_length=100, description="Id of a model.", examples=[schemas.MODEL_ID])]
DatasetId = Annotated[str, Path(max_length=100, description="Id of a data set.", examples=[schemas.DATASET_ID])]
