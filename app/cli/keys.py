"""`npt keys`: make, list and revoke API keys in the data folder. A running server notices within seconds."""

from __future__ import annotations

import json
import re
import sys
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from app.cli.options import DataDir, Json, state

if TYPE_CHECKING:  # the settings take longer to import than the rest: who asks for help does not wait for them
    from app.access.records import StoredKey
    from app.access.repository import KeyRepository
    from app.settings import AppSettings

BY = "command"
_SPAN = re.compile(r"(\d{1,6})([mhd])")
_UNITS = {"m": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}


class Scope(StrEnum):
    """As in `app.access.records`, which takes longer to import; a test holds the two together."""

    TUNE = "tune"
    PREDICT = "predict"
    ADMIN = "admin"


keys = typer.Typer(help="API keys of the data folder: create, list, revoke.", no_args_is_help=True)


@keys.command()
def create(
    scope: Annotated[list[Scope], typer.Option("--scope", help="May repeat; admin includes the others.")],
    label: Annotated[str, typer.Option(help="What people call it.")] = "",
    expires: Annotated[
        str | None, typer.Option(metavar="WHEN", help="30m, 12h, 90d, 2030-01-31 or 2030-01-31T12:00:00Z.")
    ] = None,
    requests_per_minute: Annotated[int | None, typer.Option(metavar="N", help="Its own rate; 0: no limit.")] = None,
    burst: Annotated[int | None, typer.Option(metavar="N", help="Requests it may save up and send at once.")] = None,
    upload_bytes_per_day: Annotated[int | None, typer.Option(metavar="N", help="Its own quota; 0: no limit.")] = None,
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it, this once."""
    from app.access.repository import FOLDER, Wanted
    from app.settings import AppSettings
    from worker.logs import log_change, setup_logging
    from worker.records import utcnow

    state(data_dir=data_dir)
    settings = AppSettings()
    wanted = Wanted(
        scopes=tuple(map(str, scope)),
        label=label,
        expires_at=expiry(expires, utcnow()) if expires else None,
        requests_per_minute=requests_per_minute,
        burst=burst,
        upload_bytes_per_day=upload_bytes_per_day,
    )
    setup_logging(settings)
    record, secret = _repository(settings).create(wanted, by=BY)
    log_change("key.create", record.id, key=BY, scopes=list(record.scopes), label=record.label)
    if as_json:
        facts = record.model_dump(mode="json", exclude={"digest"})
        sys.stdout.write(json.dumps(facts | {"key": secret}) + "\n")
        return
    sys.stderr.write(
        f"Key {record.id} ({', '.join(record.scopes)}) is kept, as a hash, in {settings.place(FOLDER)}.\n"
        "The key itself is shown this once:\n"
    )
    sys.stdout.write(f"{secret}\n")


@keys.command("list")
def list_keys(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Every key, newest first, without the key itself."""
    from app.access.repository import FOLDER
    from app.settings import AppSettings
    from worker.records import utcnow

    state(data_dir=data_dir)
    settings = AppSettings()
    repository, now = _repository(settings), utcnow()
    if as_json:
        for key in repository.all():
            facts = key.record.model_dump(mode="json", exclude={"digest"}) | {"state": key.state(now)}
            end = key.end.model_dump(mode="json") if key.end else {}
            sys.stdout.write(json.dumps(facts | end) + "\n")
        return
    rows = [("ID", "STATE", "SCOPES", "EXPIRES", "LABEL")]
    rows += [_row(key, now) for key in repository.all()]
    if len(rows) == 1:
        sys.stderr.write(f"There is no key in {settings.place(FOLDER)}.\n")
        return
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        sys.stdout.write("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _row(key: StoredKey, now: datetime) -> tuple[str, str, str, str, str]:
    record = key.record
    expires = record.expires_at.strftime("%Y-%m-%d %H:%MZ") if record.expires_at else "never"
    return record.id, str(key.state(now)), ",".join(record.scopes), expires, record.label


@keys.command()
def revoke(
    id: Annotated[str, typer.Argument(help="As `keys list` shows it.")],
    data_dir: DataDir = None,
    as_json: Json = False,
) -> None:
    """End a key for good."""
    from app.settings import AppSettings
    from worker.logs import log_change, setup_logging

    state(data_dir=data_dir)
    settings = AppSettings()
    setup_logging(settings)
    ended = _repository(settings).revoke(id, by=BY)
    if ended:
        log_change("key.revoke", id, key=BY)
    if as_json:
        sys.stdout.write(json.dumps({"id": id, "revoked": ended}) + "\n")
    elif ended:
        sys.stderr.write(f"Key {id} is revoked; a running server refuses it within seconds.\n")
    else:
        sys.stderr.write(f"Key {id} was revoked before.\n")


def _repository(settings: AppSettings) -> KeyRepository:
    from app.access.repository import KeyRepository
    from worker.store.opening import open_store

    return KeyRepository(open_store(settings))


def expiry(text: str, now: datetime) -> datetime:
    """A span from now, or a date; UTC where it does not say.

    Raises:
        ConfigError: It is neither.
    """
    from npt_core.errors import ConfigError

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
