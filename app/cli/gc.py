"""`npt gc`: list and remove what has outlived its days, and what nothing needs; also while a server runs."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.exits import usage
from app.cli.options import DataDir, Json, state

if TYPE_CHECKING:  # the worker floor takes a third of a second to import: what only asks for help does not wait for it
    from app.settings import AppSettings
    from worker.retention import Policy, Waste

BY = "command"
_AGE = re.compile(r"(datasets|jobs)=(\d{1,6}(?:\.\d{1,6})?)")


def gc(
    more: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List it and change nothing.")] = False,
    older_than: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=DAYS ...",
            help="Days for this run, instead of NPT_KEEP_DATASETS_DAYS and NPT_KEEP_JOBS_DAYS: jobs=30 datasets=90.",
        ),
    ] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Remove what has outlived its days, and what nothing needs; also while a server runs."""
    if more and not older_than:
        raise usage(f"gc takes no argument, and found {more[0]!r}; days are given as --older-than jobs=30 datasets=90.")
    from app.settings import AppSettings
    from npt_core.errors import ConfigError
    from worker.logs import setup_logging
    from worker.service import open_services

    state(data_dir=data_dir)
    settings = AppSettings()
    setup_logging(settings)
    policy = _policy([*(older_than or ()), *(more or ())], settings)
    if settings.store_url is None and not settings.data_dir.is_dir():
        raise ConfigError(f"There is no data folder {str(settings.data_dir)!r}; NPT_DATA_DIR says where it is.")
    services = open_services(settings)
    try:
        found: Sequence[Waste] = services.retention.find(policy) if dry_run else services.retention.sweep(policy, by=BY)
    finally:
        services.close()
    if as_json:
        for waste in found:
            facts = {"kind": waste.kind, "id": waste.id, "bytes": waste.bytes, "why": waste.why}
            sys.stdout.write(json.dumps(facts | {"removed": not dry_run}) + "\n")
        return
    for waste in found:
        sys.stdout.write(f"{waste.kind:<9} {waste.bytes:>14,}  {waste.id}  ({waste.why})\n")
    total = sum(waste.bytes for waste in found)
    done = "would go" if dry_run else "are gone"
    sys.stderr.write(f"{len(found)} found, {total:,} bytes {done}.\n" if found else "Nothing may go.\n")


def _policy(ages: Sequence[str], settings: AppSettings) -> Policy:
    """The days of the settings, and in their place those of the command line.

    Raises:
        ConfigError: One is not KIND=DAYS.
    """
    from npt_core.errors import ConfigError
    from worker.retention import Policy

    policy = Policy(settings.keep_datasets_days, settings.keep_jobs_days)
    for text in ages:
        match = _AGE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--older-than is {text[:50]!r}; write datasets=DAYS or jobs=DAYS, like jobs=30.")
        policy = replace(policy, **{f"{match[1]}_days": float(match[2])})
    return policy
