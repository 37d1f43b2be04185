"""What every route that starts a job has in common: where the images come from, and the 202 it answers with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request, Response

from app.context import link
from app.forms import Form
from app.schemas import JOB_ID, Job
from app.uploads import Upload
from npt_core.errors import Fault
from worker.logs import log_change
from worker.records import JobRecord

POLL_AFTER_S = "2"

ACCEPTED: dict[int | str, dict[str, Any]] = {
    202: {
        "description": "The job was accepted",
        "headers": {
            "Location": {"description": "The job", "schema": {"type": "string"}, "example": f"/jobs/{JOB_ID}"},
            "Retry-After": {"description": "When to look, in seconds", "schema": {"type": "integer"}},
        },
    }
}
"""What OpenAPI says of the answer."""


def accepted(request: Request, response: Response, job: JobRecord, *, created: bool = True, **facts: object) -> Job:
    """The answer to a request that started a job, or, where not `created`, was seen before; told in the log once.

    Args:
        request: What was asked.
        response: Gets the headers.
        job: The job.
        created: This request started it.
        **facts: For the log line of the change.
    """
    response.headers["Location"] = link(request, f"/jobs/{job.id}")
    response.headers["Retry-After"] = POLL_AFTER_S
    if created:
        log_change("job.start", job.id, kind=job.kind, **facts)
    else:
        response.headers["Idempotency-Replayed"] = "true"
    return Job.of(job)


def source_faults(form: Form, upload: Upload | None, fields: Sequence[str]) -> list[Fault]:
    """What is wrong with the fields of a form that brings labelled images, as a zip or as the id of stored ones."""
    faults = [Fault(name, f"is not a field; use {', '.join(fields)}") for name in form.fields if name not in fields]
    dataset_id = form.one("dataset_id") or None
    if upload is None and "dataset" in form.fields:
        faults.append(Fault("dataset", "must be a file: with curl, -F dataset=@pictures.zip"))
    elif upload is None and dataset_id is None:
        faults.append(Fault("dataset", "is missing: send a zip as `dataset`, or a stored one as `dataset_id`"))
    elif upload is not None and dataset_id is not None:
        faults.append(Fault("dataset_id", "cannot be combined with `dataset`; send one of the two"))
    return faults


def dataset_form(
    properties: Mapping[str, Any],
    examples: Mapping[str, Any],
    required: Sequence[str] = (),
    required_stored: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe, for OpenAPI, a form that brings a zip as `dataset`, or names a stored data set and needs no file.

    Args:
        properties: Schema of every field, `dataset` among them.
        examples: Of the form with a file, by name.
        required: Fields that it must have.
        required_stored: Fields that it must have where it brings no file.
    """

    def schema(fields: Mapping[str, Any], needed: Sequence[str]) -> dict[str, Any]:
        return {"type": "object", **({"required": list(needed)} if needed else {}), "properties": dict(fields)}

    stored = {key: value for key, value in properties.items() if key != "dataset"}
    content = {
        "multipart/form-data": {"schema": schema(properties, required), "examples": dict(examples)},
        "application/x-www-form-urlencoded": {"schema": schema(stored, required_stored)},
    }
    return {"requestBody": {"required": True, "content": content}}
