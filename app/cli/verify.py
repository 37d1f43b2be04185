"""`npt verify`: is everything in the store what was written?"""

from __future__ import annotations

from dataclasses import asdict

import typer

from app.cli.exits import FAILED
from app.cli.options import DataDir, Json, state
from app.cli.output import emit, note, size, table
from app.cli.progress import Bar


def verify(data_dir: DataDir = None, as_json: Json = False) -> None:
    """Look at every model, data set, job, alias, key and kept picture, and list what is damaged; exit code 1 then.

    It reads the whole store, changes nothing, and may run beside a service.
    """
    from app.access.records import KeyEnd, KeyRecord
    from app.settings import AppSettings
    from npt_core.errors import ConfigError
    from worker.integrity import Damage, Integrity
    from worker.store.opening import open_store

    state(data_dir=data_dir)
    settings = AppSettings()
    if settings.store_url is None and not settings.data_dir.is_dir():
        raise ConfigError(f"There is no data folder {str(settings.data_dir)!r}; NPT_DATA_DIR says where it is.")
    integrity = Integrity(open_store(settings), {"json": KeyRecord, "revoked.json": KeyEnd})
    things = integrity.things()
    damage: list[Damage] = []
    read = 0
    with Bar(lines=False) as bar:
        for number, (kind, name) in enumerate(things):
            bar.show({"phase": kind, "step": number, "total_steps": len(things)})
            looked = integrity.look(kind, name)
            read += looked.bytes
            damage += looked.damage
            if as_json:
                for one in looked.damage:
                    emit(asdict(one))
    if damage and not as_json:
        table(("ID", "KIND", "FILE", "WHAT"), [(one.id, one.kind, one.file, one.what) for one in damage])
    found = f"{len(damage)} found" if damage else "Nothing is damaged"
    note(f"{found}: {len(things)} things looked at, {size(read)}.")
    if damage:
        raise typer.Exit(FAILED)
