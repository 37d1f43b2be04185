"""Following a job: its record as it is now, then what happens, last its record as it ended.

The worker floor tails; here its events become server-sent ones, with records as the API tells them.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator
from typing import cast

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.requests import Request

from app.context import Context
from app.problems import Problem
from app.schemas import Job
from worker.events import RESUME_ID, Event
from worker.records import JobRecord

PING_S, SEND_TIMEOUT_S = 15, 10
RECORDS = frozenset({"snapshot", "end"})


def stream_job(context: Context, request: Request, job_id: str) -> EventSourceResponse:
    """The event stream of a job that exists.

    Raises:
        Problem: 400 for a Last-Event-ID that never was one of ours.
    """
    after = request.headers.get("last-event-id") or None
    if after is not None and not re.fullmatch(RESUME_ID, after):
        raise Problem("malformed-request", "Last-Event-ID is not an id of this stream; leave it out to start afresh.")
    return EventSourceResponse(
        _events(context, job_id, after),
        ping=PING_S,
        send_timeout=SEND_TIMEOUT_S,
        headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
    )


async def _events(context: Context, job_id: str, after: str | None) -> AsyncGenerator[ServerSentEvent, None]:
    context.metrics.event_streams.inc()
    try:
        tail = cast("AsyncGenerator[Event, None]", context.services.events.tail(job_id, after))
        async with contextlib.aclosing(tail) as events:
            async for event in events:
                yield ServerSentEvent(_data(event), event=event["event"], id=event["id"] or None)
    finally:
        context.metrics.event_streams.dec()


def _data(event: Event) -> str:
    if event["event"] in RECORDS:
        return Job.of(JobRecord.model_validate(event["data"])).model_dump_json()
    return json.dumps(event["data"], separators=(",", ":"), ensure_ascii=False)
