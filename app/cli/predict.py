"""`npt predict`: what images show, asked of a model of the server or of a classifier in a folder."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from app.cli.connection import connected
from app.cli.exits import FAILED, usage
from app.cli.local import saved_here
from app.cli.options import DEFAULT_URL, LOCAL, Device, Json, Key, Url
from app.cli.output import emit, note, table

if TYPE_CHECKING:
    from app.client import Client

AT_ONCE = 64
"""Images in one request: what a server takes by default."""
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".heic", ".heif", ".avif"})

Row = dict[str, Any]


def predict(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Id or alias on the server, `zero-shot`, or a folder or zip here.")
    ],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Image files, or folders of them.")],
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, help="Classes in an answer.")] = 3,
    label: Annotated[
        list[str] | None,
        typer.Option(help="Choose among these names in place of the model's; may repeat. New names are fine."),
    ] = None,
    reject_below: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Mark answers below this probability as rejected.")
    ] = None,
    backbone: Annotated[
        str | None, typer.Option(help="Of a classifier here, where it is no published one.", rich_help_panel=LOCAL)
    ] = None,
    device: Device = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Classify images. The exit code is 1 where one of them could not be read; the others have their answers."""
    files = expanded(images)
    here = saved_here(model)
    options = {"top_k": top_k, "labels": label or None, "reject_below": reject_below}
    bad = 0
    if here is not None:
        rows: Iterator[Row] = _locally(here, files, backbone, device, options)
        bad = _tell(rows, as_json, top_k)
    else:
        with connected(url, key) as client:
            bad = _tell(_remotely(client, model, files, options), as_json, top_k)
    if bad:
        note(f"{bad} of {len(files)} images could not be read.")
        raise typer.Exit(FAILED)


def expanded(paths: Sequence[Path]) -> list[Path]:
    """The files themselves, and the images in folders; hidden ones are left out.

    Raises:
        CommandError: Nothing is there.
    """
    found: list[Path] = []
    for path in paths:
        path = path.expanduser()
        if path.is_dir():
            inside = [
                one
                for one in sorted(path.rglob("*"))
                if one.suffix.lower() in ENDINGS
                and one.is_file()
                and not any(part.startswith(".") for part in one.relative_to(path).parts)
            ]
            if not inside:
                raise usage(f"The folder {str(path)!r} holds no image.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise usage(f"There is no image and no folder {str(path)!r}.")
    return found


def _remotely(client: Client, model: str, files: Sequence[Path], options: dict[str, Any]) -> Iterator[Row]:
    for start in range(0, len(files), AT_ONCE):
        part = files[start : start + AT_ONCE]
        answers = client.predict(list(part), model=model, **options)
        for path, answer in zip(part, answers, strict=True):
            yield {**answer.raw, "filename": str(path), "model": answer.model}


def _locally(
    here: Path, files: Sequence[Path], backbone: str | None, device: str | None, options: dict[str, Any]
) -> Iterator[Row]:
    from app.cli.local import load_here
    from npt_core.serving.ranking import Ranking
    from npt_core.serving.rows import row

    classifier = load_here(here, backbone, device)
    for start in range(0, len(files), AT_ONCE):  # answers come as they are made
        for answer in classifier.classify(list(files[start : start + AT_ONCE]), **options):
            yield row(answer.name, str(here), answer.error or Ranking(answer.top, answer.rejected))


def _tell(rows: Iterator[Row], as_json: bool, top_k: int) -> int:
    """Print answers; returns how many images have none."""
    bad = 0
    kept: list[Sequence[Any]] = []
    for one in rows:
        error = one.get("error")
        bad += bool(error)
        if as_json:
            emit(one)
            continue
        if error:
            kept.append((one["filename"], f"({error.get('detail')})"))
            continue
        mark = "rejected: " if one.get("rejected") else ""
        others = "  ".join(f"{c['label']} {_probability(c)}" for c in one["top"][1:])
        best = one["top"][0]
        kept.append((one["filename"], f"{mark}{best['label']}", _probability(best), others))
    if kept:
        width = 4 if top_k > 1 else 3
        columns = ("IMAGE", "CLASS", "PROBABILITY", "OTHERS")[:width]
        padded = [(*row, *("",) * 4)[:width] for row in kept]
        table(columns, padded, right=("PROBABILITY",))
    return bad


def _probability(candidate: dict[str, Any]) -> str:
    value = candidate.get("probability")
    return "-" if value is None else f"{value:.3f}"
