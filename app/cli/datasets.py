"""`npt datasets`: labelled images that the server keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connected
from app.cli.exits import usage
from app.cli.options import DEFAULT_URL, Json, Key, Url, Yes
from app.cli.output import emit, note, say, size, table
from app.cli.watch import follow

datasets = typer.Typer(help="Data sets of the server: add, list, show, delete.", no_args_is_help=True)
DatasetId = Annotated[str, typer.Argument(metavar="DATASET", help="Id of a data set.")]
MOST = 100


@datasets.command()
def add(
    pictures: Annotated[Path, typer.Argument(metavar="FOLDER|ZIP", help="One folder of images for each class.")],
    audit: Annotated[bool, typer.Option(help="Have a job look through the images.")] = True,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for that job and list what it found.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Store a folder or a zip without tuning on it."""
    with connected(url, key) as client:
        found = client.add_dataset(pictures, audit=audit)
        job = found.audit.get("job_id")
        if wait and job and found.audit.get("status") != "done":
            follow(client, job)
            found = client.dataset(found.id)
    if as_json:
        emit(found.raw)
        return
    say(found.id)
    note(f"{found.images} images, {len(found.labels)} classes: {', '.join(found.labels[:20])}")
    for left in found.raw.get("left_out") or ():
        note(f"left out: {left['path']}: {left['message']}")
    for finding in found.audit.get("findings") or ():
        note(f"audit: {finding.get('kind')}: {finding.get('message')}")


@datasets.command("list")
def list_datasets(
    limit: Annotated[int, typer.Option(min=1, max=MOST, help="How many at most.")] = 20,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Newest first."""
    with connected(url, key) as client:
        page = client.datasets(limit=limit)
    if as_json:
        for one in page:
            emit(one.raw)
        return
    rows = [
        (one.id, one.images, len(one.labels), size(one.raw["size_bytes"]), one.audit.get("status"), one.raw["filename"])
        for one in page
    ]
    table(("DATA SET", "IMAGES", "CLASSES", "SIZE", "AUDIT", "FILE"), rows, right=("IMAGES", "CLASSES", "SIZE"))
    if page.next_cursor:
        note(f"There are more; --limit shows up to {MOST}.")


@datasets.command()
def show(dataset: DatasetId, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False) -> None:
    """Classes, counts, and what the audit found."""
    with connected(url, key) as client:
        found = client.dataset(dataset)
    if as_json:
        emit(found.raw)
        return
    say(f"{found.id}  {found.images} images, {size(found.raw['size_bytes'])}, audit {found.audit.get('status')}")
    splits = found.raw["splits"]
    rows = [(label, *(counts.get(label, 0) for counts in splits.values())) for label in found.labels]
    table(("CLASS", *(name.upper() for name in splits)), rows, right=tuple(name.upper() for name in splits))
    for left in found.raw["left_out"]:
        say(f"left out: {left['path']}: {left['message']}")
    for finding in found.audit.get("findings") or ():
        say(f"audit: {finding.get('kind')}: {finding.get('message')}")


@datasets.command()
def delete(
    dataset: DatasetId, yes: Yes = False, url: Url = DEFAULT_URL, key: Key = None, as_json: Json = False
) -> None:
    """Delete a data set that nothing needs."""
    with connected(url, key) as client:
        confirmed(f"Delete the data set {dataset} for good?", yes)
        client.delete_dataset(dataset)
    emit({"deleted": dataset}) if as_json else say(f"The data set {dataset} is deleted.")


def confirmed(question: str, yes: bool) -> None:
    """Ask before something goes for good.

    Raises:
        CommandError: Nobody is there to ask.
        Abort: The answer was no.
    """
    import sys

    if yes:
        return
    if not sys.stdin.isatty():
        raise usage(f"{question} Nobody is here to ask; --yes says so.")
    typer.confirm(question, abort=True, err=True)
