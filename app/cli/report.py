"""`npt report`: what a tuning reached, in short here, in full as a page."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from app.cli.connection import connected, model_id
from app.cli.exits import CommandError
from app.cli.jobs import accuracies
from app.cli.local import saved_here
from app.cli.options import DEFAULT_URL, Json, Key, Url
from app.cli.output import emit, note, percent, say, table

WORST = 10


def report(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="Id or alias on the server, or a folder or zip on this machine.")
    ],
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write it all as a page to open in a browser.")
    ] = None,
    url: Url = DEFAULT_URL,
    key: Key = None,
    as_json: Json = False,
) -> None:
    """Zero-shot beside tuned, the weakest classes, the warnings; with --output everything, with plots."""
    here = saved_here(model)
    if here is not None:
        facts = _saved(here)
        if output is not None:
            from npt_core.report import render_report

            output.write_text(render_report(facts), encoding="utf-8")
    else:
        with connected(url, key) as client:
            found = model_id(client, model)
            if output is not None:
                client.report_page(found, output)
            facts = {} if output is not None and not as_json else client.report(found)
    if as_json:
        emit(facts)
    elif output is not None:
        say(str(output))
    else:
        _in_short(facts)


def _saved(here: Path) -> Mapping[str, Any]:
    from npt_core.artefact import REPORT_FILE
    from npt_core.opening import saved_folder
    from npt_core.report.facts import finite

    with saved_folder(here) as folder:
        try:
            facts: Mapping[str, Any] = finite(json.loads((folder / REPORT_FILE).read_bytes()))
        except FileNotFoundError:
            raise CommandError(f"The classifier {str(here)!r} was saved without a report.", "not-found") from None
        except (OSError, ValueError) as error:
            raise CommandError(f"{REPORT_FILE} of {str(here)!r} cannot be read: {error}.", "invalid-artefact") from None
    return facts


def _in_short(facts: Mapping[str, Any]) -> None:
    metrics = facts.get("metrics") or {}
    evaluation = facts.get("evaluation") or {}
    if told := accuracies(metrics):
        say(f"{told} ({evaluation.get('test_count')} images, {evaluation.get('kind')})")
    else:
        say(f"It was not measured: {evaluation.get('reason') or 'the report has no numbers'}.")
    classes = (metrics.get("tuned") or {}).get("per_class") or []
    weakest = sorted(classes, key=lambda one: one.get("f1") if one.get("f1") is not None else 2.0)[:WORST]
    if weakest:
        rows = [
            (one.get("label"), percent(one.get("recall")), percent(one.get("precision")), one.get("support"))
            for one in weakest
        ]
        heading = "WEAKEST CLASSES" if len(classes) > WORST else "CLASSES, WEAKEST FIRST"
        table((heading, "RECALL", "PRECISION", "IMAGES"), rows, right=("RECALL", "PRECISION", "IMAGES"))
    for warning in facts.get("warnings") or ():
        note(f"note: {warning}")
    note("Everything, with plots: --output report.html")
