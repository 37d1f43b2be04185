"""`python -m app gc`: list and remove what has outlived its days, and what nothing needs; also while a server runs."""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from app.settings import AppSettings
from npt_core.errors import ConfigError
from worker.logs import setup_logging

if TYPE_CHECKING:  # the worker floor takes a third of a second to import: what only asks for help does not wait for it
    from worker.retention import Policy, Waste

BY = "command"
_AGE = re.compile(r"(datasets|jobs)=(\d{1,6}(?:\.\d{1,6})?)")


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m app`."""
    gc = commands.add_parser("gc", help="remove what may go", description=__doc__)
    gc.add_argument("--dry-run", action="store_true", help="list it and change nothing")
    gc.add_argument("--json", action="store_true", help="one JSON object a line")
    gc.add_argument(
        "--older-than",
        nargs="+",
        default=[],
        metavar="KIND=DAYS",
        help="days for this run, instead of NPT_KEEP_DATASETS_DAYS and NPT_KEEP_JOBS_DAYS: jobs=30 datasets=90",
    )
    gc.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, settings: AppSettings) -> int:
    from worker.service import open_services

    setup_logging(settings)
    policy = _policy(arguments.older_than, settings)
    if not settings.data_dir.is_dir():
        raise ConfigError(f"There is no data folder {str(settings.data_dir)!r}; NPT_DATA_DIR says where it is.")
    services = open_services(settings)
    try:
        if arguments.dry_run:
            found: Sequence[Waste] = services.retention.find(policy)
        else:
            found = services.retention.sweep(policy, by=BY)
    finally:
        services.close()
    if arguments.json:
        for waste in found:
            facts = {"kind": waste.kind, "id": waste.id, "bytes": waste.bytes, "why": waste.why}
            sys.stdout.write(json.dumps(facts | {"removed": not arguments.dry_run}) + "\n")
        return 0
    for waste in found:
        sys.stdout.write(f"{waste.kind:<9} {waste.bytes:>14,}  {waste.id}  ({waste.why})\n")
    total = sum(waste.bytes for waste in found)
    done = "would go" if arguments.dry_run else "are gone"
    sys.stderr.write(f"{len(found)} found, {total:,} bytes {done}.\n" if found else "Nothing may go.\n")
    return 0


def _policy(ages: Sequence[str], settings: AppSettings) -> Policy:
    """The days of the settings, and in their place those of the command line.

    Raises:
        ConfigError: One is not KIND=DAYS.
    """
    from worker.retention import Policy

    policy = Policy(settings.keep_datasets_days, settings.keep_jobs_days)
    for text in ages:
        match = _AGE.fullmatch(text)
        if match is None:
            raise ConfigError(f"--older-than is {text[:50]!r}; write datasets=DAYS or jobs=DAYS, like jobs=30.")
        policy = replace(policy, **{f"{match[1]}_days": float(match[2])})
    return policy
