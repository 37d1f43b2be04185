"""The queue. What waits stands in Redis, a line for each API key; a Celery message is only a hint that something does.

A worker that takes a hint claims the next waiting job (see `worker.turns`), whichever the hint named: a hint too many
finds nothing to do, a hint too few is made good by the reaper, and the position told to a user is the order in which
jobs start.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import redis
import structlog

from worker.bus import Bus
from worker.events import Events
from worker.lease import WORKER_SEEN_MS
from worker.records import JobSpec, JobStatus
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    from celery import Celery

log = structlog.get_logger(__name__)

TASK_NAME = "npt.run"
HINTS_AT_ONCE = 100


class JobQueue:
    """Hands jobs to workers."""

    def __init__(self, bus: Bus, events: Events, settings: WorkerSettings) -> None:
        self._redis, self._keys, self._leases = bus.redis, bus.keys, bus.leases
        self._events = events
        self._settings = settings
        self._sender: Celery | None = None

    def submit(self, spec: JobSpec, *, fence: int = 0, charged: int = 0) -> bool:
        """Make a job wait and tell a worker; False where Redis knew it already."""
        fresh = self._leases.enqueue(spec.id, spec.queue, owner=spec.owner, fence=fence, charged=charged)
        if fresh:
            self._events.publish(spec.id, "status", {"status": "queued", "attempt": fence})
            self.hint(spec.id, spec.queue)
        return fresh

    def hint(self, job_id: str, queue: str | None = None) -> None:
        """Tell a worker that there may be work.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        from kombu.exceptions import OperationalError

        try:
            self._celery().send_task(
                TASK_NAME,
                args=(job_id,),
                queue=self._keys.hints(queue or self._settings.queue),
                ignore_result=True,
                retry=False,
            )
        except OperationalError as error:
            raise redis.ConnectionError(str(error)) from error

    def _celery(self) -> Celery:
        if self._sender is None:
            from worker.celery_app import create_celery

            self._sender = create_celery(self._settings)
        return self._sender

    def waiting(self, queue: str | None = None) -> list[str]:
        """The ids of the waiting jobs, in the order in which they will start."""
        return self._leases.order(queue or self._settings.queue)

    def ensure_hints(self, queue: str | None = None) -> int:
        """Where jobs wait and no hint does, send one for each; how many."""
        name = queue or self._settings.queue
        if self._redis.llen(self._keys.hints(name)):
            return 0
        ids = self._leases.order(name, HINTS_AT_ONCE)
        for job_id in ids:
            self.hint(job_id, name)
        return len(ids)

    def counts(self) -> dict[str, int]:
        """How many jobs are in each state."""
        pipe = self._redis.pipeline(transaction=False)
        for status in JobStatus:
            pipe.zcard(self._keys.status(status))
        return dict(zip((status.value for status in JobStatus), pipe.execute(), strict=True))

    def workers(self) -> int:
        """Workers seen within the last 15 s."""
        now = self._leases.now_ms()
        pipe = self._redis.pipeline(transaction=False)
        pipe.zremrangebyscore(self._keys.workers, "-inf", now - 4 * WORKER_SEEN_MS)
        pipe.zcount(self._keys.workers, now - WORKER_SEEN_MS, "+inf")
        return int(pipe.execute()[1])

    def seen(self, worker: str) -> None:
        """A worker is alive."""
        self._redis.zadd(self._keys.workers, {worker: self._leases.now_ms()})

    def gone(self, worker: str) -> None:
        """A worker has ended in good order."""
        self._redis.zrem(self._keys.workers, worker)

    def close(self) -> None:
        """Let the sender's connections go."""
        if self._sender is not None:
            cast(Any, self._sender).close()
            self._sender = None
