"""`python -m app`: the whole service in one command, or with `NPT_ROLE=api` the API alone. Settings come from `NPT_*`.

`python -m app keys` makes, lists and revokes API keys; `python -m app gc` removes what may go; see `app.cli`.

Exit codes: 0 it was told to stop, or the command is done; 1 it cannot start or go on; 2 a setting is wrong; 130 it was
told to stop twice.
"""

from __future__ import annotations

import argparse
import logging
import os
import socket
import sys

from pydantic import ValidationError

from app.cli import gc, keys
from app.settings import AppSettings
from npt_core.errors import ConfigError, NPTError, UnknownBackboneError
from worker.settings import faults_in

FAILED, WRONG_SETTINGS = 1, 2


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m app", description="NPT Service. Settings come from NPT_* variables."
    )
    parser.add_argument("--listen-fd", type=int, help=argparse.SUPPRESS)  # from the supervisor: its listening socket
    parser.set_defaults(run=serve)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", description="Without one: serve.")
    keys.add_to(commands)
    gc.add_to(commands)
    arguments = parser.parse_args()
    try:
        return int(arguments.run(arguments, AppSettings()))
    except ValidationError as error:
        sys.stderr.writelines(f"npt-service: {fault}\n" for fault in faults_in(error))
        return WRONG_SETTINGS
    except NPTError as error:
        sys.stderr.write(f"npt-service: {error.message}\n")
        return WRONG_SETTINGS if isinstance(error, (ConfigError, UnknownBackboneError)) else FAILED


def serve(arguments: argparse.Namespace, settings: AppSettings) -> int:
    if settings.role == "all":
        from app.embedded import run_embedded

        return run_embedded(settings)
    from app.listener import listen
    from app.server import serve as serve_here

    given: int | None = arguments.listen_fd
    with socket.socket(fileno=given) if given is not None else listen(settings.host, settings.port) as listener:
        code = serve_here(settings, listener)
    # A thread may still be loading weights; nobody waits for them any more, and it cannot be told.
    logging.shutdown()
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    sys.exit(main())
