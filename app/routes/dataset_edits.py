"""Growing data sets: remove, relabel or add images of a stored one; the result is a data set of its own."""

from __future__ import annotations

import contextlib
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response, Security
from pydantic import ValidationError

from app.auth import TUNE, authorize
from app.context import Context, Ctx, in_thread, link
from app.dataset_schemas import EDIT, Dataset, DatasetChange, DatasetEdit
from app.forms import Form, body_stream, is_text, media_type
from app.problems import Problem
from app.routes.answers import DatasetId, problems
from app.routes.datasets import FILENAME, TuningCaller, WithAudit, with_audit
from app.uploads import Upload
from npt_core.data.faults import MAX_LISTED
from npt_core.data.names import shown
from npt_core.errors import Fault
from npt_core.plainjson import read_plain
from worker.logs import log_change
from worker.records import DatasetRecord

router = APIRouter(tags=["data sets"], dependencies=[Security(authorize, scopes=[TUNE])])

MAX_EDIT_BYTES = 16 * 1024 * 1024
MAX_EDIT_VALUES = 1_000_000
_LOOKS_LIKE = 'The edit is not accepted; it looks like {"remove": ["a.png"], "relabel": {"b.png": "cat"}}.'
FIELDS = ("edit", "file")
JSON = "application/json"

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            JSON: {"schema": DatasetEdit.model_json_schema()},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {
                        "edit": {
                            "type": "string",
                            "description": "The same JSON, as text.",
                            "examples": [json.dumps(EDIT)],
                        },
                        "file": {"type": "string", "format": "binary", "description": "A zip of images to add."},
                    },
                }
            },
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "parameters": [FILENAME],
}


@router.post(
    "/datasets/{dataset_id}/edit",
    operation_id="edit_dataset",
    status_code=201,
    response_model=Dataset,
    responses={
        200: {"model": Dataset, "description": "A data set of these images was known already"},
        **problems(400, 404, 408, 409, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def edit_dataset(
    context: Ctx,
    request: Request,
    response: Response,
    caller: TuningCaller,
    dataset_id: DatasetId,
    audit: WithAudit = True,
) -> Dataset:
    """Make a new data set from a stored one without sending its images again. The old one stays as it is.

    Send JSON with `remove` and `relabel`, a form with that as `edit` and a zip of images to add as `file`, or such a
    zip as the body. Images are removed and relabelled first, then added; what is there already is not added again, and
    an image whose path is taken gets a number. Images are named by path or by SHA-256 (`GET /datasets/{id}/images`).
    """
    async with _received(context, request) as (edit, upload):
        if upload is not None:
            context.metrics.upload_bytes.inc(upload.size)
        record, created = await to_thread.run_sync(_edited, context, dataset_id, edit, upload, limiter=context.ingest)
    if created:
        log_change("dataset.create", record.id, source=dataset_id)
    record = await with_audit(context, record, caller.id, audit)
    response.status_code = 201 if created else 200
    response.headers["Location"] = link(request, f"/datasets/{record.id}")
    return Dataset.of(record)


def _edited(context: Context, dataset_id: str, edit: DatasetEdit, upload: Upload | None) -> tuple[DatasetRecord, bool]:
    from npt_core.data.edit import Edit

    return context.services.datasets.edit(
        dataset_id,
        Edit(tuple(edit.remove), edit.relabel),
        upload.path if upload else None,
        (upload.filename or None) if upload else None,
    )


@router.get("/datasets/{dataset_id}/change", operation_id="get_dataset_change", responses=problems(404))
async def get_change(context: Ctx, dataset_id: DatasetId) -> DatasetChange:
    """What the edit that made a data set did, image by image; 404 where it was uploaded whole."""
    return DatasetChange.of(await in_thread(context.services.datasets.change, dataset_id))


@asynccontextmanager
async def _received(context: Context, request: Request) -> AsyncIterator[tuple[DatasetEdit, Upload | None]]:
    """The edit, and the zip to add where one was sent; the zip is gone when the block ends."""
    if media_type(request) == JSON:
        yield await in_thread(parse_edit, await _json_body(context, request)), None
        return
    async with context.uploads.receive(request, "file") as (form, upload):
        yield await in_thread(_edit_of_form, form, upload), upload


async def _json_body(context: Context, request: Request) -> str:
    body = bytearray()
    pace = context.settings.upload_pace
    stream = body_stream(request, limit=MAX_EDIT_BYTES, pace=pace, what="An edit")
    async with contextlib.aclosing(stream) as chunks:
        async for chunk in chunks:
            body += chunk
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise Problem("malformed-request", "The edit is not UTF-8 text.") from None


def _edit_of_form(form: Form, upload: Upload | None) -> DatasetEdit:
    faults = [Fault(name, f"is not a field; use {', '.join(FIELDS)}") for name in form.fields if name not in FIELDS]
    if "file" in form.fields:
        faults = [Fault("file", "must be a file: with curl, -F file=@more.zip")]
    if faults:
        detail = "; ".join(f"{fault.path} {fault.message}" for fault in faults)
        raise Problem("invalid-request", f"The form is not accepted: {detail}.", faults)
    text = form.one("edit")
    if text is None and upload is None:
        raise Problem("invalid-edit", "The edit is empty: send `edit`, a zip as `file`, or both.")
    return parse_edit(text) if text is not None else DatasetEdit()


def parse_edit(text: str) -> DatasetEdit:
    """An edit from JSON text.

    Raises:
        Problem: 400 where it is no JSON, 422 with every fault where it is no edit.
    """
    try:
        data = read_plain(text, max_values=MAX_EDIT_VALUES)
    except ValueError as error:
        raise Problem("malformed-request", f"The edit is not JSON that can be used ({error}).") from None
    if not is_text(json.dumps(data, ensure_ascii=False)):
        raise Problem("invalid-edit", "The edit holds half of a surrogate pair, which is no character.")
    misfits = list(islice(_misfits(data), MAX_LISTED))
    if misfits:
        raise Problem("invalid-edit", _LOOKS_LIKE, misfits)
    try:
        return DatasetEdit.model_validate(data)
    except ValidationError as error:
        faults = [
            Fault(".".join(map(str, fault["loc"])) or "edit", fault["msg"])
            for fault in error.errors(include_url=False, include_input=False)
        ]
        raise Problem("invalid-edit", _LOOKS_LIKE, faults) from None


def _misfits(data: Any) -> Iterator[Fault]:
    """Entries that are no text. A model would list a million of them before anybody can say that it is enough."""
    edit = data if isinstance(data, dict) else {}
    remove, relabel = edit.get("remove"), edit.get("relabel")
    for number, one in enumerate(remove if isinstance(remove, list) else ()):
        if not isinstance(one, str):
            yield Fault(f"remove.{number}", "must be the path or the SHA-256 of an image")
    for name, label in (relabel if isinstance(relabel, dict) else {}).items():
        if not isinstance(label, str):
            yield Fault(f"relabel.{shown(name, 200)}", "must be a label, which is text")
