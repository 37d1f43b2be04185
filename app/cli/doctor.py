"""`npt doctor`: can the service run here, and if not, what to do."""

from __future__ import annotations

from typing import Annotated

import typer

from app.cli.exits import FAILED
from app.cli.options import DataDir, Json, state
from app.cli.output import console, emit, note


def doctor(
    data_dir: DataDir = None,
    load: Annotated[
        bool, typer.Option(help="Load each backbone as the service would, without the network; takes seconds.")
    ] = True,
    as_json: Json = False,
) -> None:
    """Check packages, device, weights, Redis, data folder, port and access, and say what to do; exit code 1 where
    something stops the service. Starts nothing and changes nothing.
    """
    from app.cli.checks import every_check

    state(data_dir=data_dir)
    worst = "ok"
    out = console()
    marks = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "bold red")}
    for check in every_check(load=load):
        if check.state == "problem" or (check.state == "warning" and worst == "ok"):
            worst = check.state
        if as_json:
            emit({"check": check.name, "state": check.state, "found": check.found, "do": check.do})
            continue
        from rich.text import Text

        from app.cli.exits import printable

        word, style = marks[check.state]
        line = Text.assemble((f"{word:<8}", style), f"{check.name:<10} ", printable(check.found))
        out.print(line, soft_wrap=True)
        if check.do:
            out.print(Text(f"{'':<19}-> {printable(check.do)}"), soft_wrap=True)
    words = {
        "ok": "Everything is there.",
        "warning": "The service can run; see the warnings.",
        "problem": "The service cannot run like this.",
    }
    note(words[worst])
    if worst == "problem":
        raise typer.Exit(FAILED)
