"""Follow a job of the server until it has ended; Ctrl-C ends the looking on, and not the job."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from app.cli.output import emit, note
from app.cli.progress import Bar

if TYPE_CHECKING:
    from app.client import Client, JobState


def follow(client: Client, job_id: str, *, as_json: bool = False) -> JobState:
    """Show a job's progress; with `as_json` its events, one object a line.

    Raises:
        KeyboardInterrupt: It goes on; how to follow or cancel it has been said.
        ServerUnreachableError: The line broke and stayed so; the job goes on.
    """
    from app.client import ServerUnreachableError

    try:
        if as_json:
            for event in client.events(job_id):
                emit({"event": event.event, "data": event.data})
        else:
            with Bar() as bar:
                for event in client.events(job_id):
                    _draw(bar, event.event, event.data)
        return client.job(job_id).state
    except KeyboardInterrupt:
        note(f"The job {job_id} goes on. {ways(job_id)}")
        raise
    except ServerUnreachableError:
        note(f"The line broke; the job {job_id} goes on where the server does. {ways(job_id)}")
        raise


def ways(job_id: str) -> str:
    """How to look after a job later."""
    return f"Follow it: npt jobs watch {job_id}   Stop it: npt jobs cancel {job_id}"


def _draw(bar: Bar, event: str, data: Mapping[str, Any]) -> None:
    if event == "progress":
        bar.show(data)
    elif event in ("snapshot", "end", "status"):
        status = str(data.get("status") or "")
        facts = data.get("progress") or {}
        if status == "queued":
            before = data.get("queue_position")
            bar.state(status, note=f"{before} start before it" if before else "")
        elif event == "end":
            bar.state(status, done=True)
        elif facts.get("phase"):
            bar.show(facts)
        else:
            bar.state(status)
