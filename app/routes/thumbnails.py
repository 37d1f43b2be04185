"""Small pictures of a stored data set: what a person looks at before tuning on it."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from anyio import to_thread
from fastapi import APIRouter, Query, Response, Security

from app.auth import TUNE, authorize
from app.context import Context, Ctx
from app.dataset_schemas import DatasetThumbnail
from app.problems import Problem
from app.routes.answers import DatasetId, problems
from app.schemas import Listing, listing
from npt_core.errors import Fault
from worker.records import Page
from worker.thumbnails import Thumbnail, thumbnails

router = APIRouter(tags=["data sets"], dependencies=[Security(authorize, scopes=[TUNE])])

MOST = 100
KEEP = "private, max-age=86400"
"""A data set never changes: what it looked like yesterday it looks like today."""


@router.get("/datasets/{dataset_id}/thumbnails", operation_id="list_dataset_thumbnails", responses=problems(404, 422))
async def list_thumbnails(
    context: Ctx,
    response: Response,
    dataset_id: DatasetId,
    label: Annotated[str | None, Query(max_length=255, description="Only images of this class.")] = None,
    path: Annotated[
        list[str] | None,
        Query(max_length=MOST, description="Only these images; may repeat, unknown ones are passed over."),
    ] = None,
    per_class: Annotated[
        int | None, Query(ge=1, le=MOST, description="At most so many of each class, spread over it.")
    ] = None,
    side: Annotated[int, Query(ge=16, le=512, description="Longest side, pixels.")] = 64,
    limit: Annotated[int, Query(ge=1, le=MOST, description="Most items on the page.")] = 60,
    cursor: Annotated[str | None, Query(max_length=20, description="`next_cursor` of the page before.")] = None,
) -> Listing[DatasetThumbnail]:
    """List images of a data set made small, as data URIs (WebP without metadata), class by class with `per_class`."""
    if cursor is not None and not (cursor.isascii() and cursor.isdigit()):
        message = "is no cursor of this list; pass `next_cursor` of the page before"
        raise Problem("invalid-request", f"cursor {message}.", [Fault("cursor", message)])
    make = partial(
        _thumbnails, context, dataset_id, label=label, paths=path or [], per_class=per_class, side=side, limit=limit
    )
    page = await to_thread.run_sync(partial(make, start=int(cursor or 0)), limiter=context.ingest)
    response.headers["Cache-Control"] = KEEP
    return listing(page, [DatasetThumbnail.of_small(one) for one in page.items])


def _thumbnails(
    context: Context,
    dataset_id: str,
    *,
    label: str | None,
    paths: list[str],
    per_class: int | None,
    side: int,
    limit: int,
    start: int,
) -> Page[Thumbnail]:
    with context.services.datasets.open(dataset_id) as dataset:
        return thumbnails(dataset, label=label, paths=paths, per_class=per_class, side=side, start=start, limit=limit)
