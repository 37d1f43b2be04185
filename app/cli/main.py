"""Every command in one tree, and what becomes of errors and of Ctrl-C."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from app.cli import (
    datasets,
    doctor,
    exchange,
    gc,
    jobs,
    keys,
    models,
    predict,
    prefetch,
    report,
    serve,
    tune,
    verify,
)
from app.cli.exits import INTERRUPTED, USAGE, told
from app.cli.options import State


class Commands(TyperGroup):
    """The root: an error that was meant to be said is said in words, and decides the exit code."""

    def invoke(self, context: Any) -> Any:
        """Run a command."""
        context.obj = state = State()
        try:
            return super().invoke(context)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except Exception as error:
            code = told(error, as_json=state.as_json)
            if code is None:
                raise
            raise typer.Exit(code) from None


cli = typer.Typer(
    name="npt",
    cls=Commands,
    help="A handful of labelled pictures to a classifier. Without a command: serve.",
    epilog="Exit codes: 0 done; 1 refused or failed; 2 wrong usage or setting; 3 no server answers; 130 Ctrl-C.",
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "NPT"},
    pretty_exceptions_enable=False,  # they draw local variables, keys among them
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(version("npt-service"))
        except PackageNotFoundError:
            typer.echo("not installed")
        raise typer.Exit


@cli.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, allow_from_autoenv=False, help="Print the version."
        ),
    ] = False,
    listen_fd: Annotated[int | None, typer.Option("--listen-fd", hidden=True, allow_from_autoenv=False)] = None,
) -> None:
    """What comes before a command: nothing but the socket that the supervisor hands to the API."""
    if context.invoked_subcommand is None:
        raise typer.Exit(serve.run(listen_fd))


WORK, SERVICE = "From pictures to answers", "The service on this machine"
KEPT = "What a server keeps"
cli.command(rich_help_panel=WORK)(tune.tune)
cli.command(rich_help_panel=WORK)(predict.predict)
cli.command(rich_help_panel=WORK)(report.report)
cli.command(rich_help_panel=WORK)(exchange.export)
cli.command("import", rich_help_panel=WORK)(exchange.import_)
cli.add_typer(models.models, name="models", rich_help_panel=KEPT)
cli.add_typer(models.aliases, name="aliases", rich_help_panel=KEPT)
cli.add_typer(jobs.jobs, name="jobs", rich_help_panel=KEPT)
cli.add_typer(datasets.datasets, name="datasets", rich_help_panel=KEPT)
cli.command(rich_help_panel=SERVICE)(serve.serve)
cli.add_typer(keys.keys, name="keys", rich_help_panel=SERVICE)
cli.command(rich_help_panel=SERVICE)(prefetch.prefetch)
cli.command(rich_help_panel=SERVICE)(doctor.doctor)
cli.command(rich_help_panel=SERVICE)(verify.verify)
cli.command("gc", rich_help_panel=SERVICE)(gc.gc)


def main() -> int:
    """Run a command line; returns the exit code."""
    called = Path(sys.argv[0]).name
    try:
        cli(prog_name="npt" if called.removesuffix(".exe") == "npt" else "python -m app")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else (0 if end.code is None else USAGE)
    return 0
