"""What was found in the pictures of a data set: `datasets/<id>/audit.json`, written by the job that looked.

The structure of a data set is judged when it is stored and stands in its record; this file adds what a job finds. It
names the job first, and has the findings when that is done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from worker.archives import LOCK
from worker.errors import CorruptRecordError, NotFoundError
from worker.jobfiles import read_record
from worker.jobs import JobStore
from worker.records import AuditRecord, AuditStatus, JobStatus, utcnow
from worker.store.base import Store

KIND = "audit"
"""The kind of job."""

AUDITS = "audits"
"""The store's lock between naming the job and keeping its findings; taken before that of the data sets."""

_OF_JOB = {
    JobStatus.QUEUED: AuditStatus.QUEUED,
    JobStatus.RUNNING: AuditStatus.RUNNING,
    JobStatus.FAILED: AuditStatus.FAILED,
    JobStatus.CANCELLED: AuditStatus.CANCELLED,
}


class Audits:
    """Audits of stored data sets."""

    def __init__(self, store: Store, jobs: JobStore) -> None:
        self._store, self._jobs = store, jobs

    def read(self, dataset_id: str, structure: Sequence[Mapping[str, Any]]) -> AuditRecord:
        """The audit of a data set as it stands, its structure included."""
        found = self._stored(dataset_id)
        if found is None:
            return AuditRecord(findings=tuple(map(dict, structure)))
        if found.status is AuditStatus.DONE:
            everything = [*map(dict, structure), *found.findings]
            return found.model_copy(
                update={"findings": tuple(sorted(everything, key=lambda one: one["severity"] == "info"))}
            )
        status = self._status(found.job_id)
        job_id = None if status is AuditStatus.STRUCTURE else found.job_id
        return AuditRecord(status=status, job_id=job_id, findings=tuple(map(dict, structure)))

    def _stored(self, dataset_id: str) -> AuditRecord | None:
        try:
            return read_record(self._store, _place(dataset_id), AuditRecord)
        except (NotFoundError, CorruptRecordError):  # what cannot be read can be found again
            return None

    def _status(self, job_id: str | None) -> AuditStatus:
        """What became of a job that has left no findings yet."""
        try:
            return _OF_JOB.get(self._jobs.get(job_id or "").status, AuditStatus.STRUCTURE)
        except (NotFoundError, CorruptRecordError):
            return AuditStatus.STRUCTURE

    def announce(self, dataset_id: str, job_id: str) -> None:
        """Note which job is to look; an earlier audit is forgotten."""
        self._store.put(_place(dataset_id), AuditRecord(status=AuditStatus.QUEUED, job_id=job_id).to_json())

    def keep(
        self,
        dataset_id: str,
        findings: Sequence[Mapping[str, Any]],
        *,
        backbone: str,
        job_id: str,
    ) -> bool:
        """Keep what a job found; False where the data set was deleted meanwhile."""
        audit = AuditRecord(
            status=AuditStatus.DONE,
            job_id=job_id,
            backbone=backbone,
            finished_at=utcnow(),
            findings=tuple(map(dict, findings)),
        )
        with self._store.lock(AUDITS), self._store.lock(LOCK):
            if not self._store.exists(f"datasets/{dataset_id}/dataset.json"):
                return False
            self._store.put(_place(dataset_id), audit.to_json())
        return True


def _place(dataset_id: str) -> str:
    return f"datasets/{dataset_id}/audit.json"
