"""What follows when an attempt ended without ending its job: the job goes back, or is given up."""

from __future__ import annotations

from typing import Literal

import structlog

from worker.events import Events
from worker.jobs import JobStore
from worker.lease import LeaseScripts, Verdict
from worker.queue import JobQueue
from worker.records import JobProgress, Problem
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)


class Recovery:
    """Carries out the verdicts of the lease scripts; safe in any number of processes at once."""

    def __init__(
        self, jobs: JobStore, leases: LeaseScripts, queue: JobQueue, events: Events, settings: WorkerSettings
    ) -> None:
        self._jobs = jobs
        self._leases = leases
        self._queue = queue
        self._events = events
        self._settings = settings

    def release(self, job_id: str, fence: int, how: Literal["drained", "outage", "died"]) -> Verdict:
        """The owner of this attempt is gone, or going."""
        if self._jobs.files.ended(job_id):
            self._jobs.settle(job_id)
            return "gone"
        verdict, charged = self._leases.release(job_id, fence, how)
        self.follow(job_id, fence, charged, verdict, how)
        return verdict

    def reap(self, job_id: str, node: str, boot: str) -> Verdict:
        """The lease has ended, it seems."""
        if self._jobs.files.ended(job_id):
            self._jobs.settle(job_id)
            return "gone"
        verdict, charged, fence = self._leases.reap(job_id, node, boot)
        self.follow(job_id, fence, charged, verdict, "died")
        return verdict

    def follow(self, job_id: str, fence: int, charged: int, verdict: Verdict, how: str) -> None:
        """Do what a verdict asks for."""
        with self._jobs.about(job_id, fence):
            if verdict == "queued":
                self._jobs.files.end_attempt(job_id, fence, charged, how)
                self._events.publish(job_id, "status", {"status": "queued", "attempt": fence})
                self._queue.hint(job_id, self._jobs.files.spec(job_id).queue)
                log.warning("job queued again", charged=charged, how=how)
            elif verdict == "cancelled":
                self._jobs.finish(job_id, self._jobs.cancelled(job_id))
            elif verdict == "poison":
                self._jobs.finish(job_id, self._jobs.failed(job_id, self.poison(charged)))
                log.error("job given up", charged=charged)

    def poison(self, charged: int) -> Problem:
        return Problem(
            type="poison",
            title="The job kills its worker",
            detail=f"The worker died {charged} times on this job without getting any further, so it was given up. "
            "Memory may be short: try a smaller batch_size or a smaller backbone.",
        )

    def stalled(self, job_id: str, idle_s: float) -> None:
        """A hang is not a death: it would hang again."""
        progress = self._jobs.progress(job_id) or JobProgress()
        problem = Problem(
            type="stalled",
            title="The job stood still",
            detail=f"No step was made for {idle_s:.0f} s (allowed: {self._settings.stall_s:.0f} s) "
            f"in the phase {progress.phase or 'start'!r}, so the job was ended.",
        )
        with self._jobs.about(job_id):
            self._jobs.finish(job_id, self._jobs.failed(job_id, problem))
            log.error("job stalled", idle_s=round(idle_s))
