"""Data sets: store one without tuning, list, read, delete."""

from __future__ import annotations

from typing import Any

from anyio import to_thread
from fastapi import APIRouter, Request, Response, Security

from app.auth import TUNE, authorize
from app.context import Context, Ctx, in_thread, link
from app.problems import Problem
from app.routes.answers import Cursor, DatasetId, Limit, problems
from app.schemas import Dataset, Listing, listing
from app.uploads import Upload
from worker.records import DatasetRecord

router = APIRouter(tags=["data sets"], dependencies=[Security(authorize, scopes=[TUNE])])

_BODY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["file"],
                    "properties": {"file": {"type": "string", "format": "binary", "description": "A zip of images."}},
                }
            },
            "application/zip": {"schema": {"type": "string", "format": "binary"}},
        },
    },
    "parameters": [
        {
            "name": "filename",
            "in": "query",
            "required": False,
            "schema": {"type": "string", "maxLength": 255},
            "description": "What a raw body is called; text only.",
        }
    ],
}


async def store_dataset(context: Context, upload: Upload) -> tuple[DatasetRecord, bool]:
    """Have an upload looked through and kept; True where it is new."""
    context.metrics.upload_bytes.inc(upload.size)
    return await to_thread.run_sync(
        context.services.datasets.add, upload.path, upload.filename or None, limiter=context.ingest
    )


@router.post(
    "/datasets",
    operation_id="create_dataset",
    status_code=201,
    response_model=Dataset,
    responses={
        200: {"model": Dataset, "description": "It was known already"},
        **problems(400, 408, 413, 415, 422, 503, 507),
    },
    openapi_extra=_BODY,
)
async def create_dataset(context: Ctx, request: Request, response: Response) -> Dataset:
    """Store and audit a data set without tuning. Its id is the hash of its content.

    Send a form with `file`, or the zip itself as the body (`Content-Type: application/zip`): best for large ones.
    """
    async with context.uploads.receive(request, "file") as (form, upload):
        unknown = sorted(set(form.fields))
        if unknown:
            raise Problem("invalid-request", f"Unknown fields: {', '.join(unknown)}; only `file` is accepted here.")
        if upload is None:
            raise Problem("invalid-request", "The form has no file; send a zip as `file`.")
        record, created = await store_dataset(context, upload)
    response.status_code = 201 if created else 200
    response.headers["Location"] = link(request, f"/datasets/{record.id}")
    return Dataset.of(record)


@router.get("/datasets", operation_id="list_datasets", responses=problems(404, 422))
async def list_datasets(context: Ctx, limit: Limit = 50, cursor: Cursor = None) -> Listing[Dataset]:
    """List data sets, newest first."""
    page = await in_thread(context.services.datasets.list, limit=limit, cursor=cursor)
    return listing(page, [Dataset.of(record) for record in page.items])


@router.get("/datasets/{dataset_id}", operation_id="get_dataset", responses=problems(404))
async def get_dataset(context: Ctx, dataset_id: DatasetId) -> Dataset:
    """Read one data set: classes, counts, splits, audit."""
    return Dataset.of(await in_thread(context.services.datasets.get, dataset_id))


@router.delete("/datasets/{dataset_id}", operation_id="delete_dataset", status_code=204, responses=problems(404, 409))
async def delete_dataset(context: Ctx, dataset_id: DatasetId) -> None:
    """Delete a data set. A job or model that needs it makes this a 409."""
    await in_thread(context.services.datasets.delete, dataset_id)
