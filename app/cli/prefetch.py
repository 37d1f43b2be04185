"""`npt prefetch`: weights onto this machine before they are needed, and a look whether they work."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from app.cli.options import Json, state
from app.cli.output import emit, note, say, size


def prefetch(
    backbone: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[BACKBONE]...",
            help="demo, ARCH/PRETRAINED of open_clip, hf-hub:ORG/NAME or local:NAME=ARCH@FILE; all of NPT_BACKBONE and "
            "NPT_BACKBONES where none is named.",
        ),
    ] = None,
    weights_dir: Annotated[
        str | None,
        typer.Option(envvar="NPT_WEIGHTS_DIR", metavar="FOLDER", help="Where they go; DATA_DIR/weights by default."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Download the weights of backbones, load each once, and say what it is."""
    import logging

    from app.settings import AppSettings
    from npt_core.clip import load_backbone, parse_backbone

    logging.disable(logging.ERROR)  # what went wrong is in the error that is raised, too
    state(weights_dir=weights_dir)
    settings = AppSettings()
    specs = [
        parse_backbone(entry) for entry in backbone or settings.backbone_entries
    ]  # a slip is told before a download
    for spec in specs:
        note(f"{spec.name}: looking in {settings.weights_path}, else downloading")
        started = time.monotonic()
        loaded = load_backbone(spec, device="cpu", precision="fp32", cache_dir=settings.weights_path)
        if as_json:
            emit({**loaded.describe(), "seconds": round(time.monotonic() - started, 1)})
        else:
            say(
                f"{loaded.name}  {loaded.description}; d {loaded.d}, {size(loaded.nbytes)}, images of "
                f"{'x'.join(map(str, loaded.image_size))}, text path {loaded.text_path}"
            )
        del loaded
