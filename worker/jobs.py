"""Jobs as everybody else sees them: create, read, list, cancel, end. The folder decides, Redis makes it quick."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import redis
import structlog
from pydantic import ValidationError

from npt_core.errors import NPTError
from worker.errors import (
    CorruptRecordError,
    IdempotencyInFlight,
    IdempotencyMismatch,
    JobFinishedError,
    NotFoundError,
    WorkerError,
)
from worker.ids import check_dataset_id, check_id, new_id
from worker.jobfiles import JobFiles, read_record
from worker.keys import Keys
from worker.lease import LeaseScripts
from worker.models import ModelRepository
from worker.records import (
    TERMINAL,
    TRANSITIONS,
    JobEnd,
    JobProgress,
    JobRecord,
    JobSpec,
    JobStatus,
    Page,
    Problem,
    ProblemItem,
    Record,
    utcnow,
)
from worker.settings import WorkerSettings
from worker.store.base import Store

__all__ = [
    "TERMINAL",
    "TRANSITIONS",
    "JobEnd",
    "JobProgress",
    "JobRecord",
    "JobSpec",
    "JobStatus",
    "JobStore",
    "Page",
    "Problem",
    "ProblemItem",
]

log = structlog.get_logger(__name__)

IN_FLIGHT_S = 60.0
"""A key whose job was never written belongs to a request that died, after this long."""


class IdempotencyClaim(Record):
    """Who first came with a key: `idempotency/<hash of the key>.json`, created once."""

    fingerprint: str | None
    job_id: str
    created_at: datetime


class JobStore:
    """Job records."""

    def __init__(
        self,
        store: Store,
        client: redis.Redis,
        keys: Keys,
        leases: LeaseScripts,
        models: ModelRepository,
        settings: WorkerSettings,
    ) -> None:
        self.files = JobFiles(store)
        self._store = store
        self._redis = client
        self._keys = keys
        self._leases = leases
        self._models = models
        self._settings = settings
        self.announce: Callable[[str, str, dict[str, Any]], None] = lambda job_id, event, data: None

    # -- creating

    def create(
        self,
        kind: str,
        config: Mapping[str, Any],
        *,
        dataset_id: str | None = None,
        name: str | None = None,
        owner: str | None = None,
        idempotency_key: str | None = None,
        fingerprint: str | None = None,
        warnings: Sequence[str] = (),
    ) -> tuple[JobSpec, bool]:
        """Write a new job durably, or find the one the same request made before (False).

        Raises:
            NotFoundError: no such data set.
            IdempotencyMismatch: the key came with another fingerprint before.
            IdempotencyInFlight: the first request with this key has not written its job yet.
        """
        spec = JobSpec(
            id=new_id("job"),
            kind=kind,
            name=name,
            created_at=utcnow(),
            dataset_id=dataset_id,
            config=dict(config),
            owner=owner,
            queue=self._settings.queue,
            warnings=tuple(warnings),
        )
        if idempotency_key is not None:
            earlier = self._claim_key(f"{owner or ''}\0{idempotency_key}", fingerprint, spec.id)
            if earlier is not None:
                if self.files.exists(earlier):
                    return self.files.spec(earlier), False
                spec = spec.model_copy(update={"id": earlier})  # its request died between the key and the job
        try:
            created = self._put_spec(spec, dataset_id)
        except NPTError:
            if idempotency_key is not None and not self.files.exists(spec.id):
                self._store.delete(_claim_place(f"{owner or ''}\0{idempotency_key}"))  # a refused request had no effect
            raise
        return (spec, True) if created else (self.files.spec(spec.id), False)

    def _put_spec(self, spec: JobSpec, dataset_id: str | None) -> bool:
        with self._store.lock("datasets"):  # a data set cannot go between the look and the job that needs it
            if dataset_id is not None and not self._store.exists(
                f"datasets/{check_dataset_id(dataset_id)}/dataset.json"
            ):
                raise NotFoundError(f"There is no data set with the id {dataset_id!r}.")
            return self.files.put_spec(spec)

    def _claim_key(self, key: str, fingerprint: str | None, job_id: str) -> str | None:
        """None where the key is new and now stands for `job_id`; else the job it stands for."""
        where = _claim_place(key)
        claim = IdempotencyClaim(fingerprint=fingerprint, job_id=job_id, created_at=utcnow())
        if self._store.put(where, claim.to_json(), create_only=True):
            return None
        try:
            found = read_record(self._store, where, IdempotencyClaim)
        except NotFoundError:  # swept away just now
            return self._claim_key_again(where, claim)
        if (utcnow() - found.created_at).total_seconds() > self._settings.idempotency_ttl_s:
            self._store.delete(where)
            return self._claim_key_again(where, claim)
        if found.fingerprint != fingerprint:
            raise IdempotencyMismatch(
                "This Idempotency-Key came with another request before; use a new key, or repeat that request exactly."
            )
        if not self.files.exists(found.job_id) and (utcnow() - found.created_at).total_seconds() < IN_FLIGHT_S:
            raise IdempotencyInFlight(
                "The first request with this Idempotency-Key is still being worked on; try again soon."
            )
        return found.job_id

    def _claim_key_again(self, where: str, claim: IdempotencyClaim) -> str | None:
        if self._store.put(where, claim.to_json(), create_only=True):
            return None
        raise IdempotencyInFlight("Another request with this Idempotency-Key came at the same moment; try again soon.")

    # -- reading

    def get(self, job_id: str) -> JobRecord:
        """Everything known about a job now. Redis adds the moment; without it the folder still answers.

        Raises:
            NotFoundError: no such job.
        """
        return self._record(self.files.spec(job_id))

    def _record(self, spec: JobSpec) -> JobRecord:
        base = spec.model_dump(exclude={"queue"})
        end = self.files.end(spec.id)
        if end is not None:
            self.carry_out(spec.id, end)
            facts = base | end.model_dump(exclude={"fence"})
            facts["warnings"] = tuple(dict.fromkeys((*spec.warnings, *end.warnings)))
            return JobRecord(**facts, cancel_requested=end.status is JobStatus.CANCELLED)
        live, position = self._live(spec)
        fences = self.files.fences(spec.id)
        status = JobStatus.QUEUED
        if live.get("status") in ("queued", "running"):
            status = JobStatus(live["status"])
        elif fences and self.files.attempt_end(spec.id, fences[-1]) is None:
            status = JobStatus.RUNNING
        started = self.files.attempt(spec.id, fences[0]).started_at if fences else None
        return JobRecord(
            **base,
            status=status,
            started_at=started,
            progress=read_progress(live.get("progress")),
            queue_position=position if status is JobStatus.QUEUED else None,
            cancel_requested=self.files.cancel_asked(spec.id),
            attempts=len(fences),
        )

    def _live(self, spec: JobSpec) -> tuple[dict[str, str], int | None]:
        try:
            pipe = self._redis.pipeline(transaction=False)
            pipe.hgetall(self._keys.job(spec.id))
            pipe.zrank(self._keys.queue(spec.queue), spec.id)
            live, rank = pipe.execute()
        except redis.RedisError:
            return {}, None
        return live, rank

    def progress(self, job_id: str) -> JobProgress | None:
        """The last progress of a job that runs."""
        try:
            return read_progress(cast("str | None", self._redis.hget(self._keys.job(job_id), "progress")))
        except redis.RedisError:
            return None

    def list(self, *, status: JobStatus | None = None, limit: int = 50, cursor: str | None = None) -> Page[JobRecord]:
        """Newest first. `cursor` is the id of the last job of the page before."""
        status = JobStatus(status) if status is not None else None
        if cursor is not None:
            check_id(cursor, "job")
        items: list[JobRecord] = []
        for job_id in self._ids(status, cursor, limit):
            try:
                record = self.get(job_id)
            except WorkerError as error:
                log.error("job left out of a listing", job=job_id, error=error.message)
                continue
            if status is None or record.status is status:
                items.append(record)
            if len(items) > limit:
                break
        more = len(items) > limit
        return Page(items=items[:limit], next_cursor=items[limit - 1].id if more else None)

    def _ids(self, status: JobStatus | None, cursor: str | None, limit: int) -> Iterator[str]:
        if status is not None:
            try:
                if self._redis.exists(self._keys.epoch):
                    yield from self._indexed(status, cursor, limit)
                    return
            except redis.RedisError:
                pass  # the index is gone for now: look at every folder
        for job_id in self.files.ids():
            if cursor is None or job_id < cursor:
                yield job_id

    def _indexed(self, status: JobStatus, cursor: str | None, limit: int) -> Iterator[str]:
        top = "+" if cursor is None else f"({cursor}"
        while True:
            ids = cast(
                "list[str]",
                self._redis.zrange(
                    self._keys.status(status),
                    cast(Any, top),
                    cast(Any, "-"),
                    desc=True,
                    bylex=True,
                    offset=0,
                    num=limit + 1,
                ),
            )
            yield from ids
            if len(ids) <= limit:
                return
            top = f"({ids[-1]}"

    def uses(self, dataset_id: str) -> str | None:
        """An unfinished job that needs the data set, if there is one."""
        for job_id in self.unfinished():
            try:
                if self.files.spec(job_id).dataset_id == dataset_id:
                    return job_id
            except WorkerError as error:  # it cannot run either
                log.error("job left out of a look for users of a data set", job=job_id, error=error.message)
        return None

    def unfinished(self) -> Iterator[str]:
        """Every job that has not ended, oldest first."""
        for job_id in sorted(self.files.ids()):
            if not self.files.ended(job_id) and self.files.exists(job_id):
                yield job_id

    # -- ending

    def cancel(self, job_id: str) -> None:
        """Ask a job to stop: durable first, then told to its worker; a waiting job ends at once.

        Raises:
            NotFoundError: no such job.
            JobFinishedError: it has ended.
        """
        spec = self.files.spec(job_id)
        end = self.files.end(job_id)
        if end is not None:
            raise JobFinishedError(f"Job {job_id} has {_ended(end.status)} and cannot be cancelled any more.")
        self.files.ask_cancel(job_id)
        try:
            if self._leases.cancel(spec.id) == "queued":
                self.finish(job_id, self.cancelled(job_id))
        except redis.RedisError as error:
            log.warning("cancel stored, Redis does not answer", job=job_id, error=str(error))

    def cancelled(self, job_id: str) -> JobEnd:
        """How a cancelled job ends."""
        return self.ending(job_id, JobStatus.CANCELLED)

    def failed(self, job_id: str, problem: Problem) -> JobEnd:
        """How a failed job ends."""
        return self.ending(job_id, JobStatus.FAILED, problem)

    def ending(self, job_id: str, status: JobStatus, problem: Problem | None = None) -> JobEnd:
        """How a job ends, as far as its folder and Redis know."""
        fences = self.files.fences(job_id)
        return JobEnd(
            status=status,
            finished_at=utcnow(),
            started_at=self.files.attempt(job_id, fences[0]).started_at if fences else None,
            fence=fences[-1] if fences else 0,
            attempts=len(fences),
            error=problem,
            progress=self.progress(job_id),
        )

    def lost(self, job_id: str, fence: int) -> bool:
        """Whether another attempt owns the job, as far as anybody can tell."""
        try:
            return self._leases.renew(job_id, fence, extend=False)[0] == "lost"
        except redis.RedisError:
            return self.files.fences(job_id)[-1] != fence

    def finish(self, job_id: str, end: JobEnd) -> bool:
        """End a job; the first call in the world decides, and every call helps to carry out what was decided."""
        won = self.files.put_end(job_id, end)
        self.settle(job_id)
        return won

    def settle(self, job_id: str) -> None:
        """Carry out a decided end: the model into its place, the state into Redis, the news, the tidying."""
        end = self.files.end(job_id)
        if end is None:
            return
        self.carry_out(job_id, end)
        try:
            if self._leases.settle(job_id, end.status):
                self.announce(job_id, "end", self._last_word(job_id, end))
                log.info("job ended", job=job_id, status=end.status.value, attempts=end.attempts)
        except redis.RedisError as error:
            log.warning("job ended, Redis does not answer", job=job_id, status=end.status.value, error=str(error))
        self.files.tidy(job_id)

    def _last_word(self, job_id: str, end: JobEnd) -> dict[str, Any]:
        try:
            return self.get(job_id).model_dump(mode="json")
        except CorruptRecordError:
            return {"id": job_id, **end.model_dump(mode="json")}

    def carry_out(self, job_id: str, end: JobEnd) -> None:
        """Finish the move of a model that its winner may have died over."""
        if end.model_id is not None:
            self._models.promote(self.files.attempt_key(job_id, end.fence), end.model_id)


def read_progress(text: str | None) -> JobProgress | None:
    """Progress as Redis holds it; None where it is missing or not readable."""
    if not text:
        return None
    try:
        return JobProgress.model_validate_json(text)
    except ValidationError:
        return None


def from_ms(milliseconds: float) -> datetime:
    """A moment of Redis' clock."""
    return datetime.fromtimestamp(milliseconds / 1000, UTC)


def to_ms(moment: datetime | None) -> int:
    """The same the other way; now where None."""
    return int((moment.timestamp() if moment else time.time()) * 1000)


def _ended(status: JobStatus) -> str:
    return {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed"}.get(status, "been cancelled")


def _claim_place(key: str) -> str:
    return f"idempotency/{hashlib.sha256(key.encode()).hexdigest()}.json"
