"""Runs the API in this process: one uvicorn server on one socket."""

from __future__ import annotations

import signal
import socket

import uvicorn

from app.listener import BACKLOG
from app.main import create_app
from app.settings import AppSettings

# An open event stream would keep the server from ending; after this long what is still open is cut.
DRAIN_S = 5


def serve(settings: AppSettings, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is running.

    Returns:
        Exit code: 0, or 3 when the application could not start.
    """
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,  # the app logs its requests itself, with their ids
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        ws="none",
        lifespan="on",
    )
    server = uvicorn.Server(config)
    # uvicorn raises the signal again when it is done; ending as asked is no death by signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    return 0 if server.started else 3
