"""Options that many commands share. Each has a variable; those without one here have NPT_<COMMAND>_<OPTION>."""

from __future__ import annotations

import os
from typing import Annotated

import typer

DEFAULT_URL = "http://127.0.0.1:8000"


class State:
    """What the end of a command needs to know of how it was called."""

    as_json = False


def _remember(context: typer.Context, value: bool) -> bool:
    state = context.find_object(State)
    if state is not None:
        state.as_json = value
    return value


Json = Annotated[
    bool,
    typer.Option(
        "--json",
        envvar="NPT_JSON",
        callback=_remember,
        is_eager=True,  # a fault of another option is told in the same way
        help="Print JSON for programs: one value, or one object a line in lists; errors as JSON on stderr.",
    ),
]
Url = Annotated[
    str, typer.Option("--url", envvar="NPT_URL", help="The server to speak to.", rich_help_panel="Connection")
]
Key = Annotated[
    str | None,
    typer.Option(
        "--key",
        envvar="NPT_API_KEY",
        help="API key, where the server wants one; better in the variable, which no list of processes shows.",
        rich_help_panel="Connection",
    ),
]
DataDir = Annotated[
    str | None,
    typer.Option(
        "--data-dir", envvar="NPT_DATA_DIR", metavar="FOLDER", help="Folder of everything durable; ./data by default."
    ),
]
LOCAL = "Without a server"
Device = Annotated[
    str | None,
    typer.Option("--device", envvar="NPT_DEVICE", help="auto, cpu, cuda, cuda:1 or mps.", rich_help_panel=LOCAL),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do it without asking.")]


def state(**settings: str | None) -> None:
    """Put options that stand for settings where all settings are read from, and where child processes find them."""
    os.environ.update({f"NPT_{name.upper()}": value for name, value in settings.items() if value is not None})
