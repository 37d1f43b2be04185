"""Names in Redis. (API keys are the app's business.)

All of it can be made again from the store. The Lua scripts build these names themselves from the prefix, and those of
the lines in which jobs wait (`worker.turns`), so the service wants one Redis, not a Redis Cluster.
"""

from __future__ import annotations

from dataclasses import dataclass

from worker.records import JobStatus


@dataclass(frozen=True)
class Keys:
    """Every Redis key of one service."""

    prefix: str

    @property
    def epoch(self) -> str:
        """Set last by a reconciliation; where it is missing, Redis has lost its memory."""
        return f"{self.prefix}:epoch"

    @property
    def reconciling(self) -> str:
        """Held by the one process that reconciles."""
        return f"{self.prefix}:reconciling"

    @property
    def leases(self) -> str:
        """Sorted set: job id by the millisecond its lease ends."""
        return f"{self.prefix}:leases"

    @property
    def workers(self) -> str:
        """Sorted set: worker by the millisecond it was last seen."""
        return f"{self.prefix}:workers"

    @property
    def tally(self) -> str:
        """Hash: what all workers counted (`worker.tally`)."""
        return f"{self.prefix}:tally"

    @property
    def datasets(self) -> str:
        """Sorted set: id of a data set by when it was stored (`worker.shelf`)."""
        return f"{self.prefix}:datasets"

    def job(self, job_id: str) -> str:
        """Hash: status, lease, fence, charges, progress."""
        return f"{self.prefix}:job:{job_id}"

    def events(self, job_id: str) -> str:
        """Stream of progress events."""
        return f"{self.prefix}:job:{job_id}:events"

    def hints(self, name: str) -> str:
        """The Celery queue: a list of messages that say that there may be work."""
        return f"{self.prefix}:hints:{name}"

    def status(self, status: JobStatus) -> str:
        """Sorted set of the ids of the jobs in that state, all with score 0."""
        return f"{self.prefix}:status:{status}"
