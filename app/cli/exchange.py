"""`npt export` and `npt import`: models as files, from one server to another and from this machine to one."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from app.cli.connection import connected, model_id
from app.cli.exits import usage
from app.cli.local import MANIFEST
from app.cli.options import DEFAULT_URL, Json, Key, Url
from app.cli.output import emit, note, say


class Format(StrEnum):
    """What a model is written as."""

    ZIP = "zip"
    ONNX = "onnx"


def export(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="Id or alias of a model.")],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="MODEL.zip or MODEL.onnx by default.")
    ] = None,
    format: Annotated[
        Format, typer.Option(help="zip: for `npt import` and `npt predict`; onnx: for other programs.")
    ] = Format.ZIP,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Take a model away, as one file of safetensors and JSON, or as ONNX."""
    with connected(url, key) as client:
        found = model_id(client, model)
        path = output or Path(f"{found}.{format}")
        if path.is_dir():
            path = path / f"{found}.{format}"
        if path.exists() and not force:
            raise usage(f"The file {str(path)!r} is there already; say another one with --output, or --force.")
        if not path.parent.is_dir():
            raise usage(f"There is no folder {str(path.parent)!r}.")
        if format is Format.ONNX:
            note("The server writes it when it is first asked for: that takes a while.")
        client.export(found, path, format=str(format))
    emit({"model": found, "file": str(path)}) if as_json else say(str(path))


def import_(
    file: Annotated[
        Path, typer.Argument(metavar="FILE|FOLDER", help="An exported zip, or the folder of `npt tune --local`.")
    ],
    name: Annotated[str | None, typer.Option(help="What to call it there, in place of its name.")] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Bring a model to the server. It needs the same backbone there, whatever it is called."""
    with packed(file.expanduser()) as path, connected(url, key) as client:
        found = client.import_model(path, name=name)
    if as_json:
        emit(found.raw)
        return
    say(found.id)
    note(
        f"{found.name or 'without a name'}{f' v{found.version}' if found.version else ''}, {len(found.labels)} classes"
    )


@contextlib.contextmanager
def packed(path: Path) -> Iterator[Path]:
    """The exported zip itself, or one made of a saved classifier's folder for as long as the block runs.

    Raises:
        CommandError: Neither is there.
    """
    if path.is_file():
        yield path
        return
    if not (path / MANIFEST).is_file():
        raise usage(f"There is no exported zip and no saved classifier {str(path)!r}.")
    from npt_core.bundle import Origin, pack

    with tempfile.TemporaryDirectory(prefix="npt-import-") as folder:
        made = Path(folder) / "classifier.zip"
        with made.open("wb") as out:
            out.writelines(pack(path, Origin(f"local:{path.resolve().name}"[:200])))
        yield made
