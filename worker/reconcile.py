"""Tell Redis again what the store knows: at start, and whenever Redis has lost its memory."""

from __future__ import annotations

import secrets
import threading

import redis
import structlog

from worker.errors import WorkerError
from worker.jobs import JobStore, to_ms
from worker.keys import Keys
from worker.lease import Identity, LeaseScripts
from worker.queue import JobQueue
from worker.settings import WorkerSettings

log = structlog.get_logger(__name__)

LOCK_MS = 60_000


class Reconciler:
    """Walks the job folders. What Redis already knows of a job is left as it is."""

    def __init__(
        self,
        client: redis.Redis,
        keys: Keys,
        leases: LeaseScripts,
        jobs: JobStore,
        queue: JobQueue,
        settings: WorkerSettings,
    ) -> None:
        self._redis = client
        self._keys = keys
        self._leases = leases
        self._jobs = jobs
        self._queue = queue
        self._settings = settings
        self._wanted = threading.Event()
        self._wanted.set()  # once at start, whatever Redis says

    def request(self) -> None:
        """Something may have been written while Redis was away: walk again."""
        self._wanted.set()

    def run_if_needed(self) -> bool:
        """Reconcile at start, on request, and where the epoch is missing."""
        if not self._wanted.is_set() and self._redis.exists(self._keys.epoch):
            return False
        return self.run()

    def run(self) -> bool:
        """Walk every job folder once; False while another process does."""
        token = secrets.token_hex(8)
        if not self._redis.set(self._keys.reconciling, token, nx=True, px=LOCK_MS):
            return False
        self._wanted.clear()
        counts = {"ended": 0, "running": 0, "queued": 0, "unreadable": 0}
        try:
            for job_id in self._jobs.files.ids():
                try:
                    counts[self._tell(job_id)] += 1
                except WorkerError as error:
                    counts["unreadable"] += 1
                    log.error("job left out", job=job_id, error=error.message)
            self._queue.ensure_hints()
            self._redis.set(self._keys.epoch, token)
        except BaseException:
            self._wanted.set()
            raise
        finally:
            if self._redis.get(self._keys.reconciling) == token:
                self._redis.delete(self._keys.reconciling)
        log.info("reconciled", **counts)
        return True

    def _tell(self, job_id: str) -> str:
        files = self._jobs.files
        known = self._redis.hget(self._keys.job(job_id), "status")
        if files.ended(job_id):
            if known is None or known in ("queued", "running"):
                self._end(job_id, known)
            return "ended"
        if not files.exists(job_id):
            return "ended"  # a folder whose request died before it was answered
        if files.cancel_asked(job_id) and known != "running":
            fences = files.fences(job_id)
            if known == "queued" or not fences or files.attempt_end(job_id, fences[-1]) is not None:
                self._jobs.finish(job_id, self._jobs.cancelled(job_id))
                return "ended"
        if known is not None:
            return "running" if known == "running" else "queued"
        spec = files.spec(job_id)
        fences = files.fences(job_id)
        if not fences:
            self._leases.enqueue(job_id, spec.queue)
            return "queued"
        last = files.attempt(job_id, fences[-1])
        end = files.attempt_end(job_id, fences[-1])
        if end is not None:
            self._leases.enqueue(job_id, spec.queue, fence=end.fence, charged=end.charged)
            return "queued"
        first = files.attempt(job_id, fences[0])
        who = Identity(last.node, last.boot, last.worker, last.pid)
        self._leases.adopt(
            job_id, spec.queue, who, fence=last.fence, charged=last.charged, started_ms=to_ms(first.started_at)
        )
        return "running"

    def _end(self, job_id: str, known: str | None) -> None:
        if known is not None:  # it ended while Redis was away, or its winner died before saying so
            self._jobs.settle(job_id)
            return
        end = self._jobs.files.end(job_id)
        if end is None or self._redis.zscore(self._keys.status(end.status), job_id) is not None:
            return
        self._jobs.carry_out(job_id, end)
        self._leases.settle(job_id, end.status)
