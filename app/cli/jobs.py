"""`npt jobs`: what the server is at, and was."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import connected
from app.cli.options import DEFAULT_URL, Json, Key, Url
from app.cli.output import emit, note, percent, say, table
from app.cli.watch import follow

if TYPE_CHECKING:
    from app.client import JobState

jobs = typer.Typer(help="Jobs of the server: list, show, watch, cancel, results.", no_args_is_help=True)
JobId = Annotated[str, typer.Argument(metavar="JOB", help="Id of a job.")]
MOST = 100


@jobs.command("list")
def list_jobs(
    status: Annotated[
        str | None, typer.Option("--status", metavar="STATE", help="queued, running, succeeded, failed or cancelled.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Newest first."""
    with connected(url, key) as client:
        page = client.jobs(status=status, limit=limit)
    if as_json:
        for one in page:
            emit(one.raw)
        return
    rows = [(one.id, one.kind, one.status, one.raw.get("name"), one.raw.get("created_at"), _about(one)) for one in page]
    table(("JOB", "KIND", "STATUS", "NAME", "CREATED", "ABOUT"), rows)
    if page.next_cursor:
        note(f"There are more; --limit shows up to {MOST}.")


def _about(job: JobState) -> str | None:
    if job.status == "running":
        step, total = job.progress.get("step"), job.progress.get("total_steps")
        return f"{job.progress.get('phase')} {step} of {total}" if total else job.progress.get("phase")
    if job.error:
        return str(job.error.get("detail"))
    return job.model_id


@jobs.command()
def show(job: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Everything known about one job."""
    with connected(url, key) as client:
        state = client.job(job).state
    if as_json:
        emit(state.raw)
        return
    table(("WHAT", ""), [(name, _brief(value)) for name, value in state.raw.items() if value not in (None, [], {}, "")])


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_brief(one)}" for key, one in value.items() if one is not None)[:300]
    return "; ".join(map(str, value)) if isinstance(value, list) else str(value)


@jobs.command()
def watch(job: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Follow a job until it has ended. Ctrl-C ends the looking on, and not the job."""
    with connected(url, key) as client:
        ended(follow(client, job, as_json=as_json), as_json=as_json)


def ended(state: JobState, *, as_json: bool) -> None:
    """Say how a job ended.

    Raises:
        JobFailedError: It did not succeed.
    """
    from app.client import JobFailedError

    if state.status != "succeeded":
        raise JobFailedError(state.id, state.status, state.error)
    if as_json:
        return
    for warning in state.warnings:
        note(f"note: {warning}")
    say(f"The job {state.id} succeeded." + (f" Model: {state.model_id}" if state.model_id else ""))
    told = accuracies(state.metrics)
    if told:
        say(told)


def accuracies(metrics: Any) -> str | None:
    """What a tuning reached, in a line; None where it was not measured."""
    pairs = [("zero-shot", metrics.get("zero_shot")), ("tuned", metrics.get("tuned"))]
    found = [(name, percent(one.get("accuracy"))) for name, one in pairs if isinstance(one, dict)]
    parts = [f"{name} {value}" for name, value in found if value]
    return "Accuracy on images it was not tuned on: " + ", ".join(parts) if parts else None


@jobs.command()
def cancel(job: JobId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Ask a job to stop; it does within a step."""
    with connected(url, key) as client:
        state = client.cancel(job).state
    if as_json:
        emit(state.raw)
    else:
        say(f"The job {job} is {state.status}, and was asked to stop.")
        if not state.ended:
            note(f"Follow it: npt jobs watch {job}")


@jobs.command()
def results(
    job: JobId,
    output: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="Where they go; .csv makes a table.")],
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Fetch the answers of a batch: JSON lines, or CSV."""
    with connected(url, key) as client:
        path = client.results(job, output, format="csv" if output.suffix.lower() == ".csv" else "jsonl")
    emit({"job": job, "file": str(path)}) if as_json else say(str(path))
