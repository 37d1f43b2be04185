"""What happens to a job from the request to the end: create, cancel, end, remove. The folder decides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import redis
import structlog

from npt_core.errors import NPTError
from worker import tally
from worker.bus import Bus
from worker.claims import Claims
from worker.errors import CorruptRecordError, JobFinishedError, NotFoundError, WorkerError
from worker.ids import check_dataset_id, ids_in, new_id
from worker.jobreader import JobReader
from worker.logs import about_job, bound_request
from worker.models import LOCK as MODELS
from worker.models import ModelRepository
from worker.records import JobEnd, JobRecord, JobSpec, JobStatus, Problem, utcnow
from worker.references import needs_of_job
from worker.settings import WorkerSettings
from worker.store.base import Store

log = structlog.get_logger(__name__)

WITHOUT_FILES = frozenset({"audit"})
"""Kinds of job that keep a few records and nothing else: a full store has room for them."""


class JobStore(JobReader):
    """Job records, to read and to write."""

    def __init__(self, store: Store, bus: Bus, models: ModelRepository, settings: WorkerSettings) -> None:
        super().__init__(store, bus, models)
        self._store = store
        self._settings = settings
        self.claims = Claims(store, self.files, settings.idempotency_ttl_s)
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
        archive: Path | None = None,
    ) -> tuple[JobSpec, bool]:
        """Write a new job durably, or find the one the same request made before (False).

        `archive` goes with a new job, and is gone when that has ended; else it stays where it is.

        Raises:
            NotFoundError: no such data set, or no such model as the config names.
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
            request=bound_request(),
            warnings=tuple(warnings),
        )
        if idempotency_key is not None:
            earlier = self.claims.take(_claimed(owner, idempotency_key), fingerprint, spec.id)
            if earlier is not None:
                if self.files.exists(earlier):
                    return self.files.spec(earlier), False
                spec = spec.model_copy(update={"id": earlier})  # its request died between the key and the job
        try:
            created = self._put_spec(spec, dataset_id, archive)
        except NPTError:
            if idempotency_key is not None and not self.files.exists(spec.id):
                self.claims.drop(_claimed(owner, idempotency_key))
            raise
        return (spec, True) if created else (self.files.spec(spec.id), False)

    def replayed(self, owner: str | None, idempotency_key: str, fingerprint: str | None) -> JobRecord | None:
        """The job that the same request made before, if it did, whatever has become of what that needed.

        Raises:
            IdempotencyMismatch: the key came with another fingerprint before.
        """
        earlier = self.claims.find(_claimed(owner, idempotency_key), fingerprint)
        return self.get(earlier) if earlier is not None else None

    def _put_spec(self, spec: JobSpec, dataset_id: str | None, archive: Path | None) -> bool:
        if archive is None:
            return self._put_under_locks(spec, dataset_id, None)
        self.files.stage(spec.id, archive)
        try:
            return self._put_under_locks(spec, dataset_id, archive)
        except BaseException:
            self.files.unstage(spec.id)
            raise

    def _put_under_locks(self, spec: JobSpec, dataset_id: str | None, archive: Path | None) -> bool:
        # Neither a data set nor a model can go between the look and the job that needs it.
        with self._store.lock("datasets"), self._store.lock(MODELS):
            if dataset_id is not None and not self._store.touch(
                f"datasets/{check_dataset_id(dataset_id)}/dataset.json"
            ):  # a use: it counts its days anew
                raise NotFoundError(f"There is no data set with the id {dataset_id!r}.")
            for model_id in ids_in(spec.config, "model"):
                self._models.get(model_id)
            if spec.kind not in WITHOUT_FILES:
                self._store.limit.ensure()
            self.references.note(spec.id, needs_of_job(spec))
            return self.files.put_spec(spec, archive)

    # -- removing

    def clear_up(self, job_id: str) -> None:
        """Carry out, once more, what was decided of a job, and leave nothing of its attempts; call it with no lock."""
        with contextlib.suppress(WorkerError):  # damaged: it is carried out no more either
            end = self.files.end(job_id)
            if end is not None:
                self.carry_out(job_id, end)
                self.files.tidy(job_id)

    def remove(self, job_id: str) -> bool:
        """Remove the record and files of an ended job, its model stays; False where it has not ended or is not there.

        Raises:
            CorruptRecordError: how it ended cannot be read.
        """
        end = self.files.end(job_id)
        if end is None:
            return False
        self.carry_out(job_id, end)
        removed = self._store.delete(f"jobs/{job_id}")
        self._forget(job_id)
        return removed

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
        with self.about(job_id):
            self.carry_out(job_id, end)
            try:
                if self._leases.settle(job_id, end.status, self._counts(job_id, end)):
                    self.announce(job_id, "end", self._last_word(job_id, end))
                    log.info("job ended", status=end.status.value, attempts=end.attempts)
            except redis.RedisError as error:
                log.warning("job ended, Redis does not answer", status=end.status.value, error=str(error))
            self.files.tidy(job_id)
            with contextlib.suppress(WorkerError):  # one that cannot be read needs nothing either
                self.references.drop(job_id, needs_of_job(self.files.spec(job_id)))

    def _counts(self, job_id: str, end: JobEnd) -> dict[str, float]:
        try:
            return tally.of_job(self.files.spec(job_id), end)
        except WorkerError:  # what cannot be read has no kind to be counted under
            return {}

    @contextlib.contextmanager
    def about(self, job_id: str, attempt: int | None = None) -> Iterator[None]:
        """Have every line of the log inside name the job, and the request that asked for it where none is at work."""
        request = bound_request()
        if request is None:
            with contextlib.suppress(WorkerError, OSError):
                request = self.files.spec(job_id).request
        with about_job(job_id, attempt=attempt, request=request):
            yield

    def _last_word(self, job_id: str, end: JobEnd) -> dict[str, Any]:
        try:
            return self.get(job_id).model_dump(mode="json")
        except CorruptRecordError:
            return {"id": job_id, **end.model_dump(mode="json")}


def _claimed(owner: str | None, idempotency_key: str) -> str:
    return f"{owner or ''}\0{idempotency_key}"


def _ended(status: JobStatus) -> str:
    return {JobStatus.SUCCEEDED: "succeeded", JobStatus.FAILED: "failed"}.get(status, "been cancelled")
