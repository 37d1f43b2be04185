"""Jobs: list, read, follow, cancel."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, Security
from sse_starlette import EventSourceResponse

from app.auth import PREDICT, TUNE, Caller, authorize, require
from app.context import Ctx, in_thread, link
from app.routes.answers import Cursor, JobId, Limit, problems
from app.schemas import Job, Listing, listing
from app.sse import stream_job
from worker.errors import NotFoundError
from worker.logs import log_change
from worker.predictions import KIND
from worker.records import JobRecord, JobStatus

_EVENTS = 'id: 1795571611731-0\nevent: progress\ndata: {"phase": "tuning", "step": 420, "total_steps": 1000}\n\n'
router = APIRouter(tags=["jobs"])


async def visible_job(context: Ctx, job_id: JobId, caller: Annotated[Caller, Security(authorize)]) -> JobRecord:
    """A job that the caller may follow: with the scope `tune` any, with `predict` the predictions it asked for."""
    if TUNE not in caller.scopes and PREDICT in caller.scopes:
        try:
            record = await in_thread(context.services.jobs.get, job_id)
        except NotFoundError:
            record = None  # who may not look learns nothing about what there is
        if record is not None and record.kind == KIND and record.owner == caller.id:
            return record
    require(caller, [TUNE])
    return await in_thread(context.services.jobs.get, job_id)


VisibleJob = Annotated[JobRecord, Depends(visible_job)]


@router.get(
    "/jobs",
    operation_id="list_jobs",
    responses=problems(400, 404, 422, 503),
    dependencies=[Security(authorize, scopes=[TUNE])],
)
async def list_jobs(
    context: Ctx,
    status: Annotated[JobStatus | None, Query(description="Only jobs in this state.")] = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Listing[Job]:
    """List jobs, newest first."""
    page = await in_thread(context.services.jobs.list, status=status, limit=limit, cursor=cursor)
    return listing(page, [Job.of(record) for record in page.items])


@router.get("/jobs/{job_id}", operation_id="get_job", responses=problems(404))
async def get_job(job: VisibleJob) -> Job:
    """Read one job."""
    return Job.of(job)


@router.get(
    "/jobs/{job_id}/events",
    operation_id="follow_job",
    response_class=EventSourceResponse,
    responses={
        200: {
            "description": "Events: `snapshot` (the record), `status`, `progress`, `geometry`, and last `end` (the "
            "record). Resume with the header Last-Event-ID. A comment every 15 s keeps the line open.",
            "content": {"text/event-stream": {"schema": {"type": "string"}, "example": _EVENTS}},
        },
        **problems(400, 404),
    },
)
async def follow_job(context: Ctx, request: Request, job: VisibleJob) -> EventSourceResponse:
    """Follow a job as server-sent events until it has ended."""
    return stream_job(context, request, job.id)


@router.post("/jobs/{job_id}/cancel", operation_id="cancel_job", status_code=202, responses=problems(404, 409, 503))
async def cancel_job(context: Ctx, request: Request, response: Response, job: VisibleJob) -> Job:
    """Ask a job to stop. A queued job is cancelled at once; a running one within a step."""
    record = await in_thread(context.services.cancel_job, job.id)
    log_change("job.cancel", job.id)
    response.headers["Location"] = link(request, f"/jobs/{record.id}")
    return Job.of(record)
