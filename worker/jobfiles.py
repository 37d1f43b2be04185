"""The folder of a job: the only place where its fate is written. Knows no Redis."""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import structlog

from worker.errors import CorruptRecordError, NotFoundError
from worker.ids import ID_PATTERN, check_id
from worker.records import Attempt, AttemptEnd, DamagedRecord, JobEnd, JobSpec, Record, utcnow
from worker.store.base import Store

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Record)

INPUT = "input.zip"
PARTS = "parts"
RESULTS = "results"
"""Folder of what a job made for its user to read; in the attempt's folder first, then in the job's."""


def read_record(store: Store, key: str, kind: type[R]) -> R:
    """One stored record.

    Raises:
        NotFoundError: there is none.
        CorruptRecordError: it is not what was written.
    """
    data = store.get(key)
    try:
        return kind.from_json(data)
    except DamagedRecord as error:
        raise CorruptRecordError(
            f"The stored record {key} is not what was written: its checksum differs. Restore it from a backup or "
            "remove it."
        ) from error
    except ValueError as error:
        raise CorruptRecordError(
            f"The stored record {key} cannot be read: it is damaged, or a later version wrote it. Restore it from a "
            "backup, or run that version."
        ) from error


class JobFiles:
    """Reads and writes what `worker.records` describes."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- the request

    def put_spec(self, spec: JobSpec, archive: Path | None = None) -> bool:
        """Write a request down; False where one of that id exists. `archive` is moved to it, in the same instant."""
        if archive is None:
            return self.store.put(f"jobs/{spec.id}/job.json", spec.to_json(), create_only=True)
        staged = self._staged(spec.id)
        try:
            self.store.put_file(f"{staged}/{INPUT}", archive)
            self.store.put(f"{staged}/job.json", spec.to_json())
            return self.store.move(staged, f"jobs/{spec.id}", last="job.json")
        finally:
            self.store.delete(staged)

    def stage(self, job_id: str, archive: Path) -> None:
        """Do ahead what takes long with a large archive, which stays; `unstage` where no `put_spec` follows."""
        self.store.flush(archive, f"{self._staged(job_id)}/{INPUT}")

    def unstage(self, job_id: str) -> None:
        """Leave nothing of what `stage` did."""
        self.store.delete(self._staged(job_id))

    def _staged(self, job_id: str) -> str:
        return f"uploads/{job_id}"  # swept with the uploads, should this process die

    def input(self, job_id: str) -> Path:
        """The archive that came with the request. Raises NotFoundError where there is none, or none any more."""
        key = f"jobs/{check_id(job_id, 'job')}/{INPUT}"
        if not self.store.exists(key):
            raise NotFoundError(f"The archive of the job {job_id} is not there any more; send it again.")
        return self.store.fetch(key)

    def spec(self, job_id: str) -> JobSpec:
        """What was asked. Raises NotFoundError."""
        check_id(job_id, "job")
        try:
            return read_record(self.store, f"jobs/{job_id}/job.json", JobSpec)
        except NotFoundError:
            raise NotFoundError(f"There is no job with the id {job_id!r}.") from None

    def exists(self, job_id: str) -> bool:
        return self.store.exists(f"jobs/{check_id(job_id, 'job')}/job.json")

    def has_folder(self, job_id: str) -> bool:
        """Whether there is anything of a job, be it half made."""
        return self.store.exists(f"jobs/{check_id(job_id, 'job')}")

    def ids(self, *, below: str | None = None) -> Iterator[str]:
        """Every job, newest first: ids sort by age. `below`: only those older than that id."""
        names = self.store.names("jobs")
        for number in reversed(range(len(names) if below is None else bisect_left(names, below))):
            if ID_PATTERN.fullmatch(names[number]):
                yield names[number]

    # -- attempts

    def put_attempt(self, job_id: str, attempt: Attempt) -> bool:
        """Record a claim; False where one of that number exists."""
        return self.store.put(f"jobs/{job_id}/attempts/{attempt.fence:04d}.json", attempt.to_json(), create_only=True)

    def end_attempt(self, job_id: str, fence: int, charged: int, outcome: str) -> None:
        end = AttemptEnd(fence=fence, charged=charged, outcome=outcome, ended_at=utcnow())
        self.store.put(f"jobs/{job_id}/attempts/{fence:04d}.end.json", end.to_json(), create_only=True)

    def fences(self, job_id: str) -> list[int]:
        """The numbers of all claims, rising."""
        names = self.store.names(f"jobs/{job_id}/attempts")
        return sorted(int(name[:-5]) for name in names if name.endswith(".json") and name[:-5].isdigit())

    def attempt(self, job_id: str, fence: int) -> Attempt:
        return read_record(self.store, f"jobs/{job_id}/attempts/{fence:04d}.json", Attempt)

    def attempt_end(self, job_id: str, fence: int) -> AttemptEnd | None:
        try:
            return read_record(self.store, f"jobs/{job_id}/attempts/{fence:04d}.end.json", AttemptEnd)
        except NotFoundError:
            return None

    def attempt_key(self, job_id: str, fence: int) -> str:
        return f"jobs/{job_id}/attempts/{fence:04d}"

    def attempt_folder(self, job_id: str, fence: int) -> Path:
        """The folder this attempt writes its results into; others see it after `Store.sync`."""
        folder = self.store.workspace(self.attempt_key(job_id, fence))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def abandon_attempt(self, job_id: str, fence: int) -> None:
        """Remove what an attempt made that did not win."""
        self.store.abandon(self.attempt_key(job_id, fence))

    # -- results

    def keep_results(self, job_id: str, fence: int) -> None:
        """Move what the winning attempt made for its user out of its folder; done again, it does nothing."""
        made = f"{self.attempt_key(job_id, fence)}/{RESULTS}"
        if self.store.exists(made):  # a move makes the folder it goes into: of a job that was just removed, too
            self.store.move(made, f"jobs/{job_id}/{RESULTS}")

    def result(self, job_id: str, name: str) -> Path:
        """A result file of a job that succeeded.

        Raises:
            NotFoundError: it made none of that name.
        """
        key = f"jobs/{check_id(job_id, 'job')}/{RESULTS}/{name}"
        if not self.store.exists(key):
            raise NotFoundError(f"The job {job_id} has no {name}.")
        return self.store.fetch(key)

    # -- cancel and end

    def ask_cancel(self, job_id: str) -> None:
        self.store.put(f"jobs/{job_id}/cancel.json", f'{{"at":"{utcnow().isoformat()}"}}'.encode(), create_only=True)

    def cancel_asked(self, job_id: str) -> bool:
        return self.store.exists(f"jobs/{job_id}/cancel.json")

    def put_end(self, job_id: str, end: JobEnd) -> bool:
        """Decide how the job ended; False where somebody has decided already, or there is no such job any more."""
        return self.exists(job_id) and self.store.put(f"jobs/{job_id}/end.json", end.to_json(), create_only=True)

    def end(self, job_id: str) -> JobEnd | None:
        try:
            return read_record(self.store, f"jobs/{job_id}/end.json", JobEnd)
        except NotFoundError:
            return None

    def ended(self, job_id: str) -> bool:
        return self.store.exists(f"jobs/{job_id}/end.json")

    def tidy(self, job_id: str) -> None:
        """Reclaim what an ended job needs no more: its archive, checkpoints, parts, and what its attempts made."""
        for name in ("checkpoint", PARTS, INPUT):
            self.store.delete(f"jobs/{job_id}/{name}")
        for fence in self.fences(job_id):
            self.abandon_attempt(job_id, fence)

    # -- checkpoints

    def save_checkpoint(self, job_id: str, fence: int, data: bytes) -> None:
        """Keep the newest checkpoint of an attempt; a stale owner writes beside its successor's, never over it."""
        self.store.put(f"jobs/{job_id}/checkpoint/{fence:04d}", hashlib.sha256(data).digest() + data)
        for name in self.store.names(f"jobs/{job_id}/checkpoint"):
            if name.isdigit() and int(name) < fence:
                self.store.delete(f"jobs/{job_id}/checkpoint/{name}")

    def load_checkpoint(self, job_id: str) -> bytes | None:
        """The newest checkpoint that is whole."""
        for name in sorted(self.store.names(f"jobs/{job_id}/checkpoint"), reverse=True):
            data = self.store.get(f"jobs/{job_id}/checkpoint/{name}")
            if hashlib.sha256(data[32:]).digest() == data[:32]:
                return data[32:]
            log.warning("checkpoint damaged, an older one is tried", job=job_id, checkpoint=name)
        return None
