"""The folder of a job: the only place where its fate is written. Knows no Redis."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import structlog
from pydantic import ValidationError

from worker.errors import CorruptRecordError, NotFoundError
from worker.ids import ID_PATTERN, check_id
from worker.records import Attempt, AttemptEnd, JobEnd, JobSpec, Record, utcnow
from worker.store.base import Store

log = structlog.get_logger(__name__)

R = TypeVar("R", bound=Record)


def read_record(store: Store, key: str, kind: type[R]) -> R:
    """One stored record.

    Raises:
        NotFoundError: there is none.
        CorruptRecordError: it is not what was written.
    """
    data = store.get(key)
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        raise CorruptRecordError(
            f"The stored record {key} cannot be read; restore it from a backup or remove it."
        ) from error


class JobFiles:
    """Reads and writes what `worker.records` describes."""

    def __init__(self, store: Store) -> None:
        self.store = store

    # -- the request

    def put_spec(self, spec: JobSpec) -> bool:
        return self.store.put(f"jobs/{spec.id}/job.json", spec.to_json(), create_only=True)

    def spec(self, job_id: str) -> JobSpec:
        """What was asked. Raises NotFoundError."""
        check_id(job_id, "job")
        try:
            return read_record(self.store, f"jobs/{job_id}/job.json", JobSpec)
        except NotFoundError:
            raise NotFoundError(f"There is no job with the id {job_id!r}.") from None

    def exists(self, job_id: str) -> bool:
        return self.store.exists(f"jobs/{check_id(job_id, 'job')}/job.json")

    def ids(self) -> Iterator[str]:
        """Every job, newest first: ids sort by age."""
        for name in reversed(self.store.names("jobs")):
            if ID_PATTERN.fullmatch(name):
                yield name

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
        """The folder this attempt writes its results into."""
        folder = self.store.path(self.attempt_key(job_id, fence))
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    # -- cancel and end

    def ask_cancel(self, job_id: str) -> None:
        self.store.put(f"jobs/{job_id}/cancel.json", f'{{"at":"{utcnow().isoformat()}"}}'.encode(), create_only=True)

    def cancel_asked(self, job_id: str) -> bool:
        return self.store.exists(f"jobs/{job_id}/cancel.json")

    def put_end(self, job_id: str, end: JobEnd) -> bool:
        """Decide how the job ended; False where somebody has decided already."""
        return self.store.put(f"jobs/{job_id}/end.json", end.to_json(), create_only=True)

    def end(self, job_id: str) -> JobEnd | None:
        try:
            return read_record(self.store, f"jobs/{job_id}/end.json", JobEnd)
        except NotFoundError:
            return None

    def ended(self, job_id: str) -> bool:
        return self.store.exists(f"jobs/{job_id}/end.json")

    def tidy(self, job_id: str) -> None:
        """Reclaim what an ended job needs no more: checkpoints, and what its attempts made besides their records."""
        self.store.delete(f"jobs/{job_id}/checkpoint")
        for fence in self.fences(job_id):
            shutil.rmtree(self.store.path(self.attempt_key(job_id, fence)), ignore_errors=True)

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
