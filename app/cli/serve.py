"""`npt serve`: the whole service in one command, or with NPT_ROLE=api the API alone."""

from __future__ import annotations

import logging
import os
import socket
import sys
from typing import Annotated

import typer

from app.cli.options import state


def _setting(flag: str, words: str, metavar: str = "TEXT") -> typer.models.OptionInfo:
    """An option that stands for a setting; it is judged where all settings are."""
    name = "NPT_" + flag.removeprefix("--").replace("-", "_").upper()
    option: typer.models.OptionInfo = typer.Option(flag, envvar=name, help=words, metavar=metavar, show_default=False)
    return option


def serve(
    host: Annotated[str | None, _setting("--host", "Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[str | None, _setting("--port", "Port; 8000 by default, 0 picks a free one.", "NUMBER")] = None,
    data_dir: Annotated[
        str | None, _setting("--data-dir", "Folder of everything durable; ./data by default.", "FOLDER")
    ] = None,
    redis_url: Annotated[
        str | None, _setting("--redis-url", "A Redis or Valkey to use instead of an own one.", "URL")
    ] = None,
    backbone: Annotated[str | None, _setting("--backbone", "The CLIP that is offered first; demo by default.")] = None,
    backbones: Annotated[str | None, _setting("--backbones", "Further ones, comma separated.")] = None,
    device: Annotated[str | None, _setting("--device", "auto, cpu, cuda, cuda:1 or mps.")] = None,
    weights_dir: Annotated[
        str | None,
        _setting("--weights-dir", "Where downloaded weights are kept; DATA_DIR/weights by default.", "FOLDER"),
    ] = None,
    log_level: Annotated[str | None, _setting("--log-level", "DEBUG, INFO, WARNING or ERROR.")] = None,
) -> None:
    """Run the service until Ctrl-C: broker, worker and API on one data folder.

    Every other setting is a variable: see .env.example.
    """
    state(
        host=host,
        port=port,
        data_dir=data_dir,
        redis_url=redis_url,
        backbone=backbone,
        backbones=backbones,
        device=device,
        weights_dir=weights_dir,
        log_level=log_level,
    )
    raise typer.Exit(run())


def run(listen_fd: int | None = None) -> int:
    """Serve with the settings of the environment; `listen_fd` is a socket that the supervisor has opened."""
    from app.settings import AppSettings

    settings = AppSettings()
    if settings.role == "all":
        from app.embedded import run_embedded

        return run_embedded(settings)
    from app.listener import listen
    from app.server import serve as serve_here

    with socket.socket(fileno=listen_fd) if listen_fd is not None else listen(settings.host, settings.port) as listener:
        code = serve_here(settings, listener)
    # A thread may still be loading weights; nobody waits for them any more, and it cannot be told.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)
