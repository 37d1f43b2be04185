"""One hint, one attempt at most: claim, record the claim, work, decide how it ends."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping

import redis
import structlog

from npt_core.errors import Cancelled, Drained, LeaseLost, NPTError
from worker.context import JobContext
from worker.control import JobControl, Pulse
from worker.errors import CorruptRecordError, NotFoundError, StoreFullError, WorkerError
from worker.ids import new_id
from worker.lease import Identity, Lease
from worker.logs import about_job, log_change
from worker.marks import BusyMark
from worker.records import Attempt, JobEnd, JobSpec, JobStatus, Outcome, Problem, utcnow
from worker.service import Services
from worker.store.base import StoreRefused, StoreUnavailable
from worker.usecases import find

log = structlog.get_logger(__name__)

FULL_PAUSE_S = 5.0
OUTAGE_S, OUTAGE_PAUSE_S = 600.0, 3.0
"""A store that does not answer is asked again for so long, and so often, when a job has ended."""
ATTEMPT_NUMBERS = 5
CANNOT_WRITE = "The result could not be written to the data volume; make room there and start the job again."


class Runner:
    """Works for one child process of a worker."""

    def __init__(self, services: Services, use_cases: Mapping[str, str], who: Identity, drain: threading.Event) -> None:
        self._services = services
        self._use_cases = use_cases
        self._who = who
        self._drain = drain
        self._busy = BusyMark(services.settings.run_dir, who.node, who.worker, who.pid)

    def run_next(self, queue: str | None = None) -> str | None:
        """Work on the oldest waiting job; its id, or None where nothing waits.

        Raises:
            redis.RedisError: Redis does not answer; the reaper sends another hint when it does.
        """
        while not self._drain.is_set():
            lease = self._services.leases.claim(queue or self._services.settings.queue, self._who)
            if lease is None:
                return None
            with self._services.jobs.about(lease.job_id, lease.fence):
                if self._take(lease):
                    return lease.job_id
        return None

    def _take(self, lease: Lease) -> bool:
        """False where there was nothing to do after all."""
        try:
            with self._busy.on(lease.job_id, lease.fence):
                return self._attempt(lease)
        except redis.RedisError:
            raise
        except StoreRefused as error:
            self._refused(lease.job_id, error)
            return True
        except StoreUnavailable as error:
            self._no_room(lease.job_id, error)
            return True
        except Exception:  # its folder may be damaged: charged, so that the cap ends it and the queue goes on
            log.exception("attempt broke off")
            self._give_up(lease)
            return True

    def _give_up(self, lease: Lease) -> None:
        for fence in self._fences(lease.job_id):
            try:
                self._services.recovery.release(lease.job_id, fence, "died")
            except (WorkerError, OSError) as error:
                log.error("job not freed, its lease will run out", error=str(error))

    def _fences(self, job_id: str) -> list[int]:
        """Of the leases that this process holds for a job: one at most, whose number may have been raised."""
        held = self._services.leases.held()
        return [each.fence for each in held if each.job_id == job_id and each.pid == self._who.pid]

    # -- before the work

    def _attempt(self, lease: Lease) -> bool:
        """False where there was nothing to do after all."""
        jobs, files = self._services.jobs, self._services.jobs.files
        job_id = lease.job_id
        if files.ended(job_id):
            jobs.settle(job_id)  # Redis did not know
            return False
        try:
            spec = files.spec(job_id)
        except NotFoundError:
            self._services.leases.settle(job_id, JobStatus.FAILED)  # nobody was promised it
            return False
        except CorruptRecordError as error:
            jobs.finish(job_id, jobs.failed(job_id, Problem.from_error(error)))
            return False
        try:
            recorded = self._record(lease)
            if recorded is None:
                return False
            if files.cancel_asked(job_id):
                jobs.finish(job_id, jobs.cancelled(job_id))
            elif recorded.charged >= self._services.settings.max_charges:
                jobs.finish(job_id, jobs.failed(job_id, self._services.recovery.poison(recorded.charged)))
            else:
                self._work(recorded, spec)
        except StoreRefused:
            raise
        except OSError as error:
            self._no_room(lease.job_id, error)
        except StoreFullError as error:
            self._no_room(lease.job_id, error)
        return True

    def _record(self, lease: Lease) -> Lease | None:
        """Write the claim down, under the first free number; None where it was lost meanwhile."""
        files = self._services.jobs.files
        for _ in range(ATTEMPT_NUMBERS):
            attempt = Attempt(
                fence=lease.fence,
                charged=lease.charged,
                node=self._who.node,
                boot=self._who.boot,
                worker=self._who.worker,
                pid=self._who.pid,
                started_at=utcnow(),
            )
            with self._pulse(lease, JobControl(self._services.settings.job_deadline_s)):
                written = files.put_attempt(lease.job_id, attempt)  # on a slow disk this may outlast the lease
            if written:
                return lease
            # Redis forgot, and counts from an earlier number again.
            raised = self._services.leases.raise_fence(lease, files.fences(lease.job_id)[-1] + 1)
            if raised is None:
                return None
            lease = raised
            self._busy.write(lease.job_id, lease.fence)
        return None

    def _no_room(self, job_id: str, error: Exception) -> None:
        """The job cannot even be recorded: let it wait, it is not to blame."""
        log.error("store not writable, job put back", error=str(error))
        self._drain.wait(FULL_PAUSE_S)
        for fence in self._fences(job_id):
            self._release(job_id, fence)

    def _refused(self, job_id: str, error: StoreRefused) -> None:
        """Asking again does not help: fail the job. Where the store takes not even that, only an operator can help."""
        log.error("the store refuses what the job needs", error=str(error))
        try:
            if self._fences(job_id):  # else it is somebody else's by now
                self._services.jobs.finish(job_id, self._services.jobs.failed(job_id, _refusal(error)))
        except (OSError, WorkerError) as again:
            self._no_room(job_id, again)

    def _release(self, job_id: str, fence: int) -> None:
        """Give a job back, uncharged; where the store does not answer either, Redis alone is told."""
        try:
            self._services.recovery.release(job_id, fence, "drained")
        except StoreUnavailable:
            self._services.leases.release(job_id, fence, "drained")  # the reaper sends a hint

    def _pulse(self, lease: Lease, control: JobControl) -> Pulse:
        """What keeps the lease while it is open."""
        return Pulse(
            lease.job_id,
            lease.fence,
            control,
            leases=self._services.leases,
            files=self._services.jobs.files,
            ttl_s=self._services.settings.lease_ttl_s,
            drain=self._drain,
        )

    # -- the work

    def _work(self, lease: Lease, spec: JobSpec) -> None:
        services = self._services
        settings = services.settings
        control = JobControl(settings.job_deadline_s)
        context = JobContext(
            spec, lease.fence, services, control, services.jobs.files.attempt_folder(spec.id, lease.fence)
        )
        services.events.publish(spec.id, "status", {"status": "running", "attempt": lease.fence})
        # Its number may have been raised since it was claimed.
        with about_job(spec.id, attempt=lease.fence), self._pulse(lease, control):
            log.info("job started", kind=spec.kind, charged=lease.charged)
            ending = self._judge(context)
            if ending is not None:
                self._finish(context, ending)

    def _finish(self, context: JobContext, ending: Callable[[], None]) -> None:
        """End the job; where the result cannot be kept, fail it, and where not even that can be written, be charged.

        A bucket that does not answer is asked again for a while: hours of work may wait to be kept. Where that is too
        long, or the worker must go, the job is put back uncharged by whoever began this attempt.
        """
        try:
            self._outlast(context, ending)
            return
        except (OSError, StoreFullError) as error:
            if isinstance(error, StoreUnavailable) and not isinstance(error, StoreRefused):
                raise
            log.error("result cannot be written", error=str(error))
            if isinstance(error, StoreRefused):
                problem = _refusal(error)
            else:
                problem = Problem.from_error(
                    error if isinstance(error, StoreFullError) else StoreFullError(CANNOT_WRITE)
                )
        try:
            if not self._services.jobs.files.ended(context.spec.id):  # else it may be what was promised
                shutil.rmtree(context.folder, ignore_errors=True)  # the room it takes is enough to say so
            self._end(context, JobStatus.FAILED, problem)
        except (OSError, StoreFullError) as error:
            log.error("not even the failure can be written", error=str(error))
            self._drain.wait(FULL_PAUSE_S)
            self._services.recovery.release(context.spec.id, context.fence, "died")

    def _outlast(self, context: JobContext, ending: Callable[[], None]) -> None:
        until = time.monotonic() + OUTAGE_S
        again = False
        while True:
            try:
                if again and self._won(context):
                    self._services.jobs.settle(context.spec.id)  # the answer was lost, and what follows is not done
                else:
                    ending()
                return
            except StoreRefused:
                raise
            except StoreUnavailable as error:
                if time.monotonic() > until or self._drain.wait(OUTAGE_PAUSE_S):
                    raise
                again = True
                log.warning("the store does not answer, the result is kept until it does", error=str(error))

    def _judge(self, context: JobContext) -> Callable[[], None] | None:
        """Do the work; what must follow, or None where this attempt just steps back."""
        spec = context.spec
        try:
            outcome = find(spec.kind, self._use_cases)(context)
            if self._services.jobs.files.cancel_asked(spec.id):
                raise Cancelled("The job was cancelled.")
            return lambda: self._succeed(context, outcome)
        except LeaseLost:
            log.warning("lease lost, attempt given up")
            self._abandon(context)
            return None
        except Drained:
            return lambda: self._put_back(context)
        except StoreRefused as error:
            log.error("the store refuses what the job needs", error=str(error))
            problem = _refusal(error)
        except StoreUnavailable as error:
            log.error("the store does not answer, job put back", error=str(error))
            self._drain.wait(FULL_PAUSE_S)
            return lambda: self._put_back(context)
        except Cancelled:
            return lambda: self._end(context, JobStatus.CANCELLED, None)
        except NPTError as error:
            problem = Problem.from_error(error)
        except MemoryError:
            problem = Problem(
                type="out-of-memory", title="Out of memory", detail="The worker ran out of memory; use fewer images."
            )
        except Exception as error:
            if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
                problem = Problem.from_error(StoreFullError("The data volume is full; make room and tune again."))
            elif type(error).__name__ == "AcceleratorError":
                # Nothing more can be computed in this process. Its death is found at once, and charged.
                log.exception("accelerator failed, process ends")
                os._exit(70)
            else:
                log.exception("job failed unexpectedly")
                problem = Problem(
                    type="internal-error",
                    title="Internal error",
                    detail=f"Something went wrong inside the worker ({type(error).__name__}). "
                    f"The worker's log says more under the job {spec.id}.",
                )
        return lambda: self._end(context, JobStatus.FAILED, problem)

    # -- after the work

    def _succeed(self, context: JobContext, outcome: Outcome) -> None:
        services, job_id = self._services, context.spec.id
        model_id = None
        if outcome.model is not None:
            model_id = context.model_id = context.model_id or new_id("model")  # one, however often this is tried
            services.models.prepare(
                context.folder, outcome.model, model_id=model_id, job_id=job_id, owner=context.spec.owner
            )
        attempt = services.jobs.files.attempt_key(job_id, context.fence)
        services.store.claim(context.folder)
        services.store.sync(attempt)
        end = self._ending(context, JobStatus.SUCCEEDED).model_copy(
            update=outcome.model_dump(exclude={"model"}) | {"model_id": model_id}
        )
        if not services.jobs.finish(job_id, end):
            log.warning("another attempt was first, result discarded")
        elif model_id is not None:
            log_change("model.create", model_id, key=context.spec.owner)

    def _won(self, context: JobContext) -> bool:
        """Whether it was this attempt that ended the job."""
        end = self._services.jobs.files.end(context.spec.id)
        return end is not None and end.fence == context.fence and end.status is JobStatus.SUCCEEDED

    def _end(self, context: JobContext, status: JobStatus, problem: Problem | None) -> None:
        """Fail or cancel, unless the job is somebody else's by now: then it is theirs to end."""
        if problem is not None and self._services.jobs.lost(context.spec.id, context.fence):
            log.warning("failed after the lease was lost, attempt given up", problem=problem.type)
            return
        end = self._ending(context, status).model_copy(update={"error": problem})
        self._services.jobs.finish(context.spec.id, end)
        if problem is not None:
            log.warning("job failed", problem=problem.type, detail=problem.detail)

    def _abandon(self, context: JobContext) -> None:
        with contextlib.suppress(OSError):  # a sweep finds it
            self._services.jobs.files.abandon_attempt(context.spec.id, context.fence)

    def _put_back(self, context: JobContext) -> None:
        self._abandon(context)
        try:
            self._release(context.spec.id, context.fence)
        except (OSError, StoreFullError) as error:
            log.error("store not writable, the lease will run out", error=str(error))

    def _ending(self, context: JobContext, status: JobStatus) -> JobEnd:
        end = self._services.jobs.ending(context.spec.id, status)
        return end.model_copy(
            update={"fence": context.fence, "progress": context.last or end.progress, "phases": context.phases}
        )


def _refusal(error: StoreRefused) -> Problem:
    return Problem(
        type="store-refused",
        title="The store refuses a request",
        detail=f"The store refuses what the job needs, and would again. {error} "
        "The operator corrects the rights, the limits or the settings of the bucket; then start the job again.",
    )
