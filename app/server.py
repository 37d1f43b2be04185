"""Runs the API in this process: one uvicorn server on one socket."""

from __future__ import annotations

import signal
import socket
from collections.abc import Sequence

import uvicorn

from app.collector import leave_what_is_here
from app.listener import BACKLOG
from app.main import create_app
from app.settings import AppSettings
from app.watches import LOOK_EVERY_S, HeadWatch, ReaderWatch
from app.wire import Wire
from worker.broker import check_lets_in
from worker.logs import setup_logging
from worker.redis_url import RedisAddress

# An open event stream would keep the server from ending; after this long what is still open is cut.
DRAIN_S = 5


def serve(settings: AppSettings, listener: socket.socket) -> int:
    """Serve until SIGTERM or SIGINT, then finish what is running.

    Returns:
        Exit code: 0, or 3 when the application could not start.

    Raises:
        ConfigError: a setting the server cannot start with.
        BrokerError: Redis answers and refuses: the certificate, user or password is wrong.
        UnknownBackboneError: an entry of NPT_BACKBONE or NPT_BACKBONES that names nothing.
    """
    setup_logging(settings)
    check_backbones(settings.backbone_entries)
    check_lets_in(RedisAddress.parse(settings.redis_address))
    config = uvicorn.Config(
        create_app(settings),
        log_config=None,
        access_log=False,  # the app logs its requests itself, with their ids
        backlog=BACKLOG,
        timeout_graceful_shutdown=DRAIN_S,
        server_header=False,
        http=Wire,
        loop="auto",  # uvloop where there is one
        ws="none",
        lifespan="on",
    )
    leave_what_is_here()
    server = watched(config, settings)
    # uvicorn raises the signal again when it is done; ending as asked is no death by signal.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])
    return 0 if server.started else 3


def watched(config: uvicorn.Config, settings: AppSettings) -> uvicorn.Server:
    """The server, which also ends connections that never send the head of a request, or never take an answer."""
    server = uvicorn.Server(config)
    connections = server.server_state.connections
    watches = (HeadWatch(connections, settings.upload_idle_s), ReaderWatch(connections, settings.answer_pace))

    async def look() -> None:
        for watch in watches:
            await watch.look()

    config.callback_notify = look
    config.timeout_notify = LOOK_EVERY_S
    return server


def check_backbones(entries: Sequence[str]) -> None:
    """Refuse a misspelt backbone now rather than in the first request that asks for it."""
    named = [entry for entry in entries if entry != "demo"]
    if named:
        from npt_core.clip import parse_backbone  # brings torch, which the demo's server loads later

        for entry in named:
            parse_backbone(entry)
