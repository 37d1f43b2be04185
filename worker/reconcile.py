"""Tell Redis again what the store knows: at start, and whenever Redis has lost its memory."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import islice

import structlog

from worker.bus import Bus
from worker.errors import WorkerError
from worker.jobs import JobStore
from worker.lease import Identity
from worker.queue import JobQueue
from worker.records import JobSpec, JobStatus
from worker.shelf import DatasetShelf

log = structlog.get_logger(__name__)

LOCK_MS = 60_000
AT_ONCE = 500
"""Jobs that are looked up in Redis, and told to it, in one step."""


class Reconciler:
    """Walks the job folders. What Redis already knows of a job is left as it is."""

    def __init__(self, bus: Bus, jobs: JobStore, queue: JobQueue, shelf: DatasetShelf) -> None:
        self._redis, self._keys, self._leases, self._memory = bus.redis, bus.keys, bus.leases, bus.memory
        self._jobs = jobs
        self._queue = queue
        self._shelf = shelf
        self._wanted = threading.Event()
        self._wanted.set()  # once at start, whatever Redis says
        self._server: str | None = None

    def request(self) -> None:
        """Something may have been written while Redis was away: walk again, whoever is first to."""
        self._wanted.set()
        self._memory.doubt()

    def run_if_needed(self) -> bool:
        """Reconcile at start, on request of any process, and where Redis has lost its memory or was started again."""
        server = str(self._redis.info("server")["run_id"])
        if self._server not in (None, server):
            self.request()  # what it had not yet written to its disk is gone
        self._server = server
        if not self._wanted.is_set() and self._memory.whole():
            return False
        return self.run()

    def run(self) -> bool:
        """Walk every job folder once; False while another process does."""
        token = secrets.token_hex(8)
        if not self._redis.set(self._keys.reconciling, token, nx=True, px=LOCK_MS):
            return False
        self._wanted.clear()
        began = time.monotonic()
        doubted_at = self._memory.doubted_at()
        counts = Counter(ended=0, running=0, queued=0, unreadable=0)
        try:
            ids, below = self._jobs.files.ids(), None
            while batch := list(islice(ids, AT_ONCE)):
                self._tell(batch, below, counts)
                below = batch[-1]
            self._forget_the_gone(self._jobs.index.between(None, below))
            counts["datasets"] = self._shelf.fill()
            self._ensure_references()
            self._queue.ensure_hints()
            self._redis.set(self._keys.epoch, token)
            self._memory.trust(doubted_at)
        except BaseException:
            self._wanted.set()
            raise
        finally:
            if self._redis.get(self._keys.reconciling) == token:
                self._redis.delete(self._keys.reconciling)
        log.info("reconciled", seconds=round(time.monotonic() - began, 3), **counts)
        return True

    def _ensure_references(self) -> None:
        try:
            self._jobs.references.ensure()
        except (WorkerError, OSError) as error:  # the first deletion tries again
            log.error("references not made", error=str(error))

    def _tell(self, batch: list[str], below: str | None, counts: Counter[str]) -> None:
        """Jobs in a row, newest first, the newest of them being the first one below that id."""
        known = self._jobs.index.between(batch[-1], below)
        self._forget_the_gone(known.keys() - set(batch))
        told = _Told()
        for job_id in batch:
            try:
                counts[self._judge(job_id, known.get(job_id), told)] += 1
            except WorkerError as error:
                counts["unreadable"] += 1
                log.error("job left out", job=job_id, error=error.message)
        if told.waiting:
            self._leases.enqueue_all(told.waiting)
        if told.ended:
            self._leases.recall(told.ended)

    def _forget_the_gone(self, known: Iterable[str]) -> None:
        """Of jobs that were removed, Redis need know nothing; a job made just now is not one of those."""
        self._jobs.index.forget([job_id for job_id in known if not self._jobs.files.has_folder(job_id)])

    def _judge(self, job_id: str, known: JobStatus | None, told: _Told) -> str:
        """What is to be told of a job, and what to count it as."""
        files = self._jobs.files
        if known is not None and known.terminal:
            return "ended"
        end = files.end(job_id)
        if end is not None:
            if known is not None:  # it ended while Redis was away, or its winner died before saying so
                self._jobs.settle(job_id)
            else:
                self._jobs.carry_out(job_id, end)
                told.ended[job_id] = end.status
            return "ended"
        if not files.exists(job_id):
            return "ended"  # a folder whose request died before it was answered
        if files.cancel_asked(job_id) and known is not JobStatus.RUNNING:
            fences = files.fences(job_id)
            if known is not None or not fences or files.attempt_end(job_id, fences[-1]) is not None:
                self._jobs.finish(job_id, self._jobs.cancelled(job_id))
                return "ended"
        if known is JobStatus.RUNNING:
            return "running"
        spec = files.spec(job_id)
        if known is not None:
            told.waiting.append((spec, 0, 0))  # in its line, whatever happened to the line
            return "queued"
        return self._judge_forgotten(spec, told)

    def _judge_forgotten(self, spec: JobSpec, told: _Told) -> str:
        """The same of one that has not ended and that Redis does not know."""
        files = self._jobs.files
        fences = files.fences(spec.id)
        if not fences:
            told.waiting.append((spec, 0, 0))
            return "queued"
        last = files.attempt(spec.id, fences[-1])
        over = files.attempt_end(spec.id, fences[-1])
        if over is not None:
            told.waiting.append((spec, over.fence, over.charged))
            return "queued"
        self._leases.adopt(
            spec.id,
            spec.queue,
            Identity(last.node, last.boot, last.worker, last.pid),
            owner=spec.owner,
            fence=last.fence,
            charged=last.charged,
            started_ms=int(files.attempt(spec.id, fences[0]).started_at.timestamp() * 1000),
        )
        return "running"


@dataclass
class _Told:
    """What Redis is to be told of some jobs, in one step."""

    waiting: list[tuple[JobSpec, int, int]] = field(default_factory=list)  # with fence and charges
    ended: dict[str, JobStatus] = field(default_factory=dict)
