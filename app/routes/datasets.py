"""Data sets: store one without tuning, list, read, delete."""

from __future__ import annotations

from typing import Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request, Response, Security

from app.auth import TUNE, Caller, authorize
from app.context import Context, Ctx, in_thread, link
from app.dataset_schemas import Dataset, DatasetImage
from app.problems import Problem
from app.resolving import refuse_unknown_backbone
from app.routes.answers import Cursor, DatasetId, Limit, problems
from app.schemas import Job, Listing, listing
from app.uploads import Upload
from npt_core.errors import Fault
from worker.logs import log_change
from worker.records import DatasetRecord

router = APIRouter(tags=["data sets"], dependencies=[Security(authorize, scopes=[TUNE])])

FILENAME: dict[str, Any] = {
    "name": "filename",
    "in": "query",
    "required": False,
    "schema": {"type": "string", "maxLength": 255},
    "description": "What a raw body is called; text only.",
}
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
    "parameters": [FILENAME],
}
WithAudit = Annotated[
    bool, Query(description="Have a job look at the images: near duplicates, likely label errors, outliers.")
]
TuningCaller = Annotated[Caller, Security(authorize, scopes=[TUNE])]


async def store_dataset(context: Context, upload: Upload) -> tuple[DatasetRecord, bool]:
    """Have an upload looked through and kept; True where it is new."""
    context.metrics.upload_bytes.inc(upload.size)
    record, created = await to_thread.run_sync(
        context.services.datasets.add, upload.path, upload.filename or None, limiter=context.ingest
    )
    if created:
        log_change("dataset.create", record.id)
    return record, created


async def with_audit(context: Context, record: DatasetRecord, owner: str, wanted: bool) -> DatasetRecord:
    """The record after a job was asked to look at its images, where that is wanted and was not done before."""
    if wanted:
        await in_thread(context.services.start_audit, record.id, owner=owner)
    return record.model_copy(update={"audit": (await in_thread(context.services.datasets.get, record.id)).audit})


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
async def create_dataset(
    context: Ctx, request: Request, response: Response, caller: TuningCaller, audit: WithAudit = True
) -> Dataset:
    """Store and audit a data set without tuning. Its id is the hash of its content.

    Send a form with `file`, or the zip itself as the body (`Content-Type: application/zip`): best for large ones.
    Structure is judged before the answer; a job (`audit.job_id`) looks at the images after it.
    """
    async with context.uploads.receive(request, "file") as (form, upload):
        unknown = sorted(set(form.fields))
        if unknown:
            raise Problem("invalid-request", f"Unknown fields: {', '.join(unknown)}; only `file` is accepted here.")
        if upload is None:
            raise Problem("invalid-request", "The form has no file; send a zip as `file`.")
        record, created = await store_dataset(context, upload)
    record = await with_audit(context, record, caller.id, audit)
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
    """Read one data set: classes, counts, splits, audit, and the edit that made it, if one did."""
    return Dataset.of(await in_thread(context.services.datasets.get, dataset_id))


@router.get("/datasets/{dataset_id}/images", operation_id="list_dataset_images", responses=problems(404, 422))
async def list_images(
    context: Ctx,
    dataset_id: DatasetId,
    label: Annotated[str | None, Query(max_length=255, description="Only images of this class.")] = None,
    split: Annotated[str | None, Query(max_length=10, description="Only images of train, val or test.")] = None,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most items on the page.")] = 100,
    cursor: Cursor = None,
) -> Listing[DatasetImage]:
    """List the images of a data set, as edits and findings name them: by split, class and content."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        message = "is no cursor of this list; pass `next_cursor` of the page before"
        raise Problem("invalid-request", f"cursor {message}.", [Fault("cursor", message)])
    page = await in_thread(
        context.services.datasets.images,
        dataset_id,
        label=label,
        split=split,
        start=int(cursor or 0),
        limit=limit,
    )
    return listing(page, [DatasetImage.of(sample) for sample in page.items])


@router.post(
    "/datasets/{dataset_id}/audit", operation_id="audit_dataset", status_code=202, responses=problems(404, 422, 507)
)
async def audit_dataset(
    context: Ctx,
    request: Request,
    response: Response,
    caller: TuningCaller,
    dataset_id: DatasetId,
    backbone: Annotated[
        str | None, Query(max_length=200, description="Through whose features: one of GET /backbones; the first.")
    ] = None,
) -> Job:
    """Have a job look at the images of a stored data set, once more where that was done before.

    While one is about to, that one is answered. The findings replace the earlier ones when the job has succeeded.
    """
    if backbone is not None:
        await in_thread(refuse_unknown_backbone, context, backbone)
    job = await in_thread(context.services.start_audit, dataset_id, backbone=backbone, owner=caller.id, again=True)
    assert job is not None  # noqa: S101 - for the type checker: asked for again, there is one
    response.headers["Location"] = link(request, f"/jobs/{job.id}")
    response.headers["Retry-After"] = "2"
    return Job.of(job)


@router.delete("/datasets/{dataset_id}", operation_id="delete_dataset", status_code=204, responses=problems(404, 409))
async def delete_dataset(context: Ctx, dataset_id: DatasetId) -> None:
    """Delete a data set. A job or model that needs it makes this a 409; an audit of it is cancelled.

    Data sets that edits made from it stay: they keep the archives they read from.
    """
    await in_thread(context.services.datasets.delete, dataset_id)
    log_change("dataset.delete", dataset_id)
