"""Walks the store and says what is damaged, by id. Reads everything, changes nothing, and stops at no damage.

What is compared with what:

    models     each file with the size and SHA-256 in `model.json`
    archives   each zip with the SHA-256 that is its name; of a damaged one, which pictures of which data set are hurt
    datasets   the record, what lies beside it with the SHA-256 in it, the zips it reads from
    jobs       request, attempts and end; a checkpoint with its SHA-256, results with the one in the end
    aliases    the record, and that its model is there
    keys       the records
    feedback   SQLite's own check, and each picture with its SHA-256

A record carries its own SHA-256 (`worker.records.Record`).

Caches (features, exports) are not looked at: they are made again. May run beside a service: what vanishes while it is
looked at was deleted, and is no damage.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from npt_core.errors import NPTError
from worker.errors import NotFoundError
from worker.feedback import FOLDER as FEEDBACK
from worker.feedback import ITEMS, SETTINGS, FeedbackSettings
from worker.ids import DATASET_ID_PATTERN, ID_PATTERN
from worker.jobfiles import JobFiles, read_record
from worker.models import RECORD as MODEL_RECORD
from worker.predictions import FILES
from worker.records import AliasRecord, AuditRecord, DatasetRecord, JobEnd, JobStatus, ModelRecord, Record, utcnow
from worker.store.base import Store

SETTLING_S = 60.0
"""A folder without its record may be in the making for so long."""
MAX_NAMED = 5
TURNED = "is not what was written: its SHA-256 differs"

Looker = Callable[[str], Iterator["Damage"]]


@dataclass(frozen=True)
class Damage:
    """One thing that is not what was written.

    Attributes:
        kind: model, archive, dataset, job, alias, key or feedback.
        id: Of what.
        file: Within it.
        what: What was found, and what to do.
    """

    kind: str
    id: str
    file: str
    what: str


@dataclass(frozen=True)
class Looked:
    """One thing that was looked at."""

    kind: str
    id: str
    bytes: int
    damage: tuple[Damage, ...]


class Integrity:
    """Looks at everything in a store.

    Args:
        store: Only read from.
        keys: What an API key is stored as, which the floor above knows: ending of a file -> kind of record.
    """

    def __init__(self, store: Store, keys: dict[str, type[Record]] | None = None) -> None:
        self._store = store
        self._files = JobFiles(store)
        self._keys = keys or {}
        self._bad_archives: set[str] = set()

    def things(self) -> list[tuple[str, str]]:
        """What there is to look at now: kind and id."""
        names = self._store.names
        found = [("model", name) for name in names("models") if ID_PATTERN.fullmatch(name)]
        found += [("archive", name) for name in names("archives")]  # before the data sets, which ask which are bad
        found += [("dataset", name) for name in names("datasets") if DATASET_ID_PATTERN.fullmatch(name)]
        found += [("job", name) for name in names("jobs") if ID_PATTERN.fullmatch(name)]
        found += [("alias", name) for name in names("aliases")]
        found += [("key", name) for name in names("keys")] if self._keys else []
        found += [("feedback", name) for name in names(FEEDBACK) if ID_PATTERN.fullmatch(name)]
        return found

    def look(self, kind: str, name: str) -> Looked:
        """Look at one of them."""
        lookers: dict[str, tuple[str, Looker]] = {
            "model": (f"models/{name}", self._model),
            "archive": (f"archives/{name}", self._archive),
            "dataset": (f"datasets/{name}", self._dataset),
            "job": (f"jobs/{name}", self._job),
            "alias": (f"aliases/{name}", self._alias),
            "key": (f"keys/{name}", self._key),
            "feedback": (f"{FEEDBACK}/{name}", self._feedback),
        }
        place, looker = lookers[kind]
        found: list[Damage] = []
        try:
            size = self._store.size(place)
            for damage in looker(name):
                found.append(damage)
        except Exception as error:  # whatever a damaged file leads to, the others are looked at
            size = 0
            found.append(Damage(kind, name, "", f"cannot be looked at: {_words(error)}"))
        if found and not self._store.exists(place):
            found = []  # deleted while it was looked at
        return Looked(kind, name, size, tuple(found))

    # -- one kind each

    def _model(self, name: str) -> Iterator[Damage]:
        cure = "restore it from a backup or an export, or delete the model"
        record, damage = self._read("model", name, f"models/{name}/{MODEL_RECORD}", ModelRecord, cure)
        if record is None:
            yield from damage
            return
        if record.id != name:
            yield Damage("model", name, MODEL_RECORD, f"is the record of {record.id!r}; {cure}")
        for file, mark in record.files.items():
            what = self._file_fault(f"models/{name}/{file}", mark.size, mark.sha256)
            if what:
                yield Damage("model", name, file, f"{what}; {cure}")

    def _file_fault(self, key: str, size: int, sha256: str) -> str | None:
        try:
            found = self._store.size(key)
            if found != size and self._store.exists(key):
                return f"has {found:,} bytes, and was written with {size:,}"
            return None if self._store.digest(key) == sha256 else TURNED
        except NotFoundError:
            return "is missing"
        except OSError as error:
            return f"cannot be read: {_words(error)}"

    def _archive(self, name: str) -> Iterator[Damage]:
        try:
            good = self._store.digest(f"archives/{name}") == name.removesuffix(".zip")
        except NotFoundError:  # deleted just now
            return
        except OSError as error:
            self._bad_archives.add(f"archives/{name}")
            yield Damage("archive", name, "", f"cannot be read: {_words(error)}; restore it from a backup")
            return
        if not good:
            self._bad_archives.add(f"archives/{name}")
            yield Damage(
                "archive", name, "", "is not what was written: its SHA-256 is not its name; restore it from a backup"
            )

    def _dataset(self, name: str) -> Iterator[Damage]:
        from npt_core.data.dataset import Dataset

        cure = "delete the data set and send it again"
        record, damage = self._read("dataset", name, f"datasets/{name}/dataset.json", DatasetRecord, cure)
        if record is None:
            yield from damage
            return
        missing = [key for key in record.archives if not self._store.exists(key)]
        for key in missing:
            yield Damage("dataset", name, key, f"is missing; {cure}")
        _, damage = self._read(
            "dataset", name, f"datasets/{name}/audit.json", AuditRecord, "have it audited again", optional=True
        )
        yield from damage
        cures = {"change.json": "what the edit did is not known any more"}
        if record.parent is not None and (what := self._json_fault(f"datasets/{name}/change.json")):
            yield Damage("dataset", name, "change.json", f"{what}; {cures['change.json']}")
        turned = [file for file in record.files if self._turned(f"datasets/{name}/{file}", record.files[file])]
        for file in turned:
            yield Damage("dataset", name, file, f"{TURNED}; {cures.get(file, cure)}")
        if "manifest.json" in turned:
            return
        try:
            manifest = json.loads(self._store.get(f"datasets/{name}/manifest.json"))
            # A zip that is missing or damaged has been said to be; the manifest can be judged without it.
            dataset = Dataset.from_manifest(manifest, *map(self._fetched, record.archives))
        except (ValueError, NPTError, OSError, RecursionError) as error:
            yield Damage("dataset", name, "manifest.json", f"cannot be read: {_words(error)}; {cure}")
            return
        with dataset:
            if dataset.id != name:
                yield Damage("dataset", name, "manifest.json", f"is that of the data set {dataset.id}; {cure}")
            if self._bad_archives & set(record.archives) and not missing:
                yield from self._hurt(name, dataset, cure)

    def _turned(self, key: str, sha256: str) -> bool:
        """Whether a file is there and is JSON, but not that which was written: what is neither is told otherwise."""
        return self._store.exists(key) and self._json_fault(key) is None and self._store.digest(key) != sha256

    def _fetched(self, key: str) -> Path:
        try:
            return self._store.fetch(key)
        except (NPTError, OSError):
            return Path(key)  # leads nowhere

    def _hurt(self, name: str, dataset: Any, cure: str) -> Iterator[Damage]:
        """Which pictures of a data set a damaged zip has cost."""
        hurt = [sample.path for sample in dataset.samples if not _whole(dataset, sample)]
        if hurt:
            count = f"{len(hurt)} of {len(dataset.samples)} pictures are damaged"
            named = ", ".join(hurt[:MAX_NAMED]) + (
                f" and {len(hurt) - MAX_NAMED} more" if len(hurt) > MAX_NAMED else ""
            )
            yield Damage(
                "dataset",
                name,
                "",
                f"{count}: {named}; remove them with an edit, or {cure}",
            )

    def _job(self, name: str) -> Iterator[Damage]:
        from worker.records import Attempt, AttemptEnd, JobSpec

        cure = "restore it from a backup, or have the job removed"
        spec, damage = self._read("job", name, f"jobs/{name}/job.json", JobSpec, cure)
        yield from damage
        if spec is not None and spec.id != name:
            yield Damage("job", name, "job.json", f"is the request of {spec.id!r}; {cure}")
        end, damage = self._read("job", name, f"jobs/{name}/end.json", JobEnd, cure, optional=True)
        yield from damage
        for file in self._store.names(f"jobs/{name}/attempts"):
            if file.endswith(".json"):
                kind: type[Record] = AttemptEnd if file.endswith(".end.json") else Attempt
                _, damage = self._read("job", name, f"jobs/{name}/attempts/{file}", kind, cure, optional=True)
                yield from damage
        for file in self._store.names(f"jobs/{name}/checkpoint"):
            data = self._store.get(f"jobs/{name}/checkpoint/{file}")
            if hashlib.sha256(data[32:]).digest() != data[:32]:
                yield Damage("job", name, f"checkpoint/{file}", "is damaged; an older one is used, or the start")
        if end is not None and end.status is JobStatus.SUCCEEDED and end.model_id is None:
            yield from self._results(name, end)

    def _results(self, name: str, end: JobEnd) -> Iterator[Damage]:
        """Files for the user, which a job's end describes; they may be gone, as its retention wants."""
        told = {FILES.get(what, what): mark for what, mark in dict((end.result or {}).get("files") or {}).items()}
        for key, _ in self._store.walk(f"jobs/{name}/results"):
            mark = told.get(key.rpartition("/")[2])
            if mark and (what := self._file_fault(key, int(mark["bytes"]), str(mark["sha256"]))):
                yield Damage("job", name, key.removeprefix(f"jobs/{name}/"), f"{what}; start the job again")

    def _alias(self, name: str) -> Iterator[Damage]:
        record, damage = self._read("alias", name, f"aliases/{name}", AliasRecord, "set the alias again")
        yield from damage
        if record is not None and not self._store.exists(f"models/{record.model_id}/{MODEL_RECORD}"):
            what = f"points to {record.model_id}, which is not there; point it to another model"
            yield Damage("alias", record.alias, name, what)

    def _key(self, name: str) -> Iterator[Damage]:
        kind = next((kind for ending, kind in self._keys.items() if name.partition(".")[2] == ending), None)
        if kind is not None:
            _, damage = self._read("key", name.partition(".")[0], f"keys/{name}", kind, "make a new key")
            yield from damage

    def _feedback(self, name: str) -> Iterator[Damage]:
        cure = "restore it from a backup, or switch the feedback of the model off, which forgets it"
        _, damage = self._read(
            "feedback", name, f"{FEEDBACK}/{name}/{SETTINGS}", FeedbackSettings, "switch it on again", optional=True
        )
        yield from damage
        key = f"{FEEDBACK}/{name}/{ITEMS}"
        if not self._store.exists(key):
            return
        try:
            with _read_only(self._store.fetch(key)) as database:
                told = database.execute("PRAGMA quick_check(1)").fetchone()[0]
                if told != "ok":
                    yield Damage("feedback", name, ITEMS, f"is damaged ({told}); {cure}")
                    return
                for item, sha256, picture in database.execute("SELECT id, sha256, picture FROM item"):
                    if hashlib.sha256(picture).hexdigest() != sha256:
                        yield Damage("feedback", name, ITEMS, f"the picture of {item} is damaged; {cure}")
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.OperationalError) and "locked" in str(error):
                return  # in use for ten seconds: by somebody who can read it
            yield Damage("feedback", name, ITEMS, f"cannot be read: {_words(error)}; {cure}")

    # -- reading

    def _read(
        self, kind: str, name: str, key: str, record: type[Any], cure: str, *, optional: bool = False
    ) -> tuple[Any, list[Damage]]:
        """A record, or what is wrong with it."""
        file = key.removeprefix(f"{key.partition('/')[0]}/{name}/")
        folder = key.rpartition("/")[0]
        try:
            return read_record(self._store, key, record), []
        except NPTError:
            if self._store.exists(key):
                return None, [Damage(kind, name, file, f"cannot be read; {cure}")]
        except OSError as error:
            return None, [Damage(kind, name, file, f"cannot be read: {_words(error)}; {cure}")]
        if optional or self._in_the_making(folder):
            return None, []
        return None, [Damage(kind, name, file, f"is missing; {cure}")]

    def _in_the_making(self, folder: str) -> bool:
        """Whether a record may be missing: its folder is gone, or young."""
        try:
            return (utcnow() - self._store.touched(folder)).total_seconds() < SETTLING_S
        except NotFoundError:
            return True

    def _json_fault(self, key: str) -> str | None:
        try:
            json.loads(self._store.get(key))
        except (ValueError, NPTError, OSError, RecursionError) as error:
            return f"cannot be read: {_words(error)}"
        return None


@contextlib.contextmanager
def _read_only(path: Path) -> Iterator[sqlite3.Connection]:
    """A data base that is not written to. One that a crash or a snapshot left in mid-write is read as a copy.

    SQLite takes such a write back when it is next opened, and says of a read-only one that it cannot.
    """
    with contextlib.closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True, timeout=10)) as database:
        try:
            database.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        except sqlite3.OperationalError as error:
            if "readonly" not in str(error):
                raise
        else:
            yield database
            return
    with tempfile.TemporaryDirectory(prefix="npt-verify-") as folder:
        for one in path.parent.glob(f"{path.name}*"):
            shutil.copyfile(one, Path(folder) / one.name)
        with contextlib.closing(sqlite3.connect(Path(folder) / path.name)) as database:
            yield database


def _whole(dataset: Any, sample: Any) -> bool:
    """Whether a picture is the one that was stored."""
    try:
        return bool(hashlib.sha256(dataset.read(sample)).hexdigest() == sample.sha256)
    except Exception:  # a zip can be broken in many ways, and each means the same here
        return False


def _words(error: BaseException) -> str:
    return (error.message if isinstance(error, NPTError) else str(error))[:300] or type(error).__name__
