"""`python -m app keys`: make, list and revoke API keys in the data folder. A running server notices within a second."""

from __future__ import annotations

import argparse
import json
import re
import sys
from datetime import UTC, datetime, timedelta

from app.access.records import SCOPES, StoredKey
from app.access.repository import FOLDER, KeyRepository, Wanted
from app.settings import AppSettings
from npt_core.errors import ConfigError
from worker.logs import log_change, setup_logging
from worker.records import utcnow
from worker.store.local import LocalStore

BY = "command"
_SPAN = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


def add_to(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `python -m app`."""
    keys = commands.add_parser("keys", help="API keys: create, list, revoke", description=__doc__)
    actions = keys.add_subparsers(title="actions", required=True, metavar="ACTION")

    create = actions.add_parser("create", help="make a key and print it, this once")
    create.add_argument(
        "--scope", action="append", required=True, choices=SCOPES, help="may repeat; admin includes the others"
    )
    create.add_argument("--label", default="", help="what people call it")
    create.add_argument("--expires", metavar="WHEN", help="30m, 12h, 90d, 2030-01-31 or 2030-01-31T12:00:00Z")
    create.add_argument("--requests-per-minute", type=int, metavar="N", help="its own rate; 0: no limit")
    create.add_argument("--burst", type=int, metavar="N", help="requests it may save up and send at once")
    create.add_argument("--upload-bytes-per-day", type=int, metavar="N", help="its own quota; 0: no limit")
    create.set_defaults(run=_create)

    listing = actions.add_parser("list", help="every key, newest first, without the key itself")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    listing.set_defaults(run=_list)

    revoke = actions.add_parser("revoke", help="end a key for good")
    revoke.add_argument("id", help="as `keys list` shows it")
    revoke.set_defaults(run=_revoke)


def _create(arguments: argparse.Namespace, settings: AppSettings) -> int:
    wanted = Wanted(
        scopes=tuple(arguments.scope),
        label=arguments.label,
        expires_at=expiry(arguments.expires, utcnow()) if arguments.expires else None,
        requests_per_minute=arguments.requests_per_minute,
        burst=arguments.burst,
        upload_bytes_per_day=arguments.upload_bytes_per_day,
    )
    setup_logging(settings)
    record, secret = _repository(settings).create(wanted, by=BY)
    log_change("key.create", record.id, key=BY, scopes=list(record.scopes), label=record.label)
    sys.stderr.write(
        f"Key {record.id} ({', '.join(record.scopes)}) is kept, as a hash, in {settings.data_dir / FOLDER}.\n"
        "The key itself is shown this once:\n"
    )
    sys.stdout.write(f"{secret}\n")
    return 0


def _list(arguments: argparse.Namespace, settings: AppSettings) -> int:
    repository, now = _repository(settings), utcnow()
    if arguments.json:
        for key in repository.all():
            facts = key.record.model_dump(mode="json", exclude={"digest"}) | {"state": key.state(now)}
            end = key.end.model_dump(mode="json") if key.end else {}
            sys.stdout.write(json.dumps(facts | end) + "\n")
        return 0
    rows = [("ID", "STATE", "SCOPES", "EXPIRES", "LABEL")]
    rows += [_row(key, now) for key in repository.all()]
    if len(rows) == 1:
        sys.stderr.write(f"There is no key in {settings.data_dir / FOLDER}.\n")
        return 0
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")
    return 0


def _row(key: StoredKey, now: datetime) -> tuple[str, str, str, str, str]:
    record = key.record
    expires = record.expires_at.strftime("%Y-%m-%d %H:%MZ") if record.expires_at else "never"
    return record.id, str(key.state(now)), ",".join(record.scopes), expires, record.label


def _revoke(arguments: argparse.Namespace, settings: AppSettings) -> int:
    setup_logging(settings)
    if _repository(settings).revoke(arguments.id, by=BY):
        log_change("key.revoke", arguments.id, key=BY)
        sys.stderr.write(f"Key {arguments.id} is revoked; a running server refuses it within a second.\n")
    else:
        sys.stderr.write(f"Key {arguments.id} was revoked before.\n")
    return 0


def _repository(settings: AppSettings) -> KeyRepository:
    return KeyRepository(LocalStore(settings.data_dir))


def expiry(text: str, now: datetime) -> datetime:
    """A span from now, or a date; UTC where it does not say.

    Raises:
        ConfigError: It is neither.
    """
    span = _SPAN.fullmatch(text)
    try:
        if span:
            return now + int(span[1]) * _UNITS[span[2]]
        when = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise ConfigError(
            f"--expires is {text[:50]!r}; write a span (30m, 12h, 90d) or a time (2030-01-31, 2030-01-31T12:00:00Z)."
        ) from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)
