"""Which jobs there are, by state: sorted sets of time-ordered ids in Redis, made again from the store where it is lost.

The scripts of `worker.lease` write them, in the same step as a job's state. A page is the newest ids below a cursor,
however many jobs there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterable
from itertools import islice
from typing import Any, cast

import redis

from worker.keys import Keys
from worker.records import JobStatus


class JobIndex:
    """Every method raises redis.RedisError where Redis does not answer."""

    def __init__(self, client: redis.Redis, keys: Keys) -> None:
        self._redis, self._keys = client, keys

    def newest(self, states: Collection[JobStatus], below: str | None, most: int) -> list[str]:
        """The newest ids in any of these states, the newest first, at most so many; `below`: older than that id."""
        top = "+" if below is None else f"({below}"
        pipe = self._redis.pipeline(transaction=True)  # no job is in two states, or between two
        for status in states:
            pipe.zrange(
                self._keys.status(status), cast(Any, top), cast(Any, "-"), desc=True, bylex=True, offset=0, num=most
            )
        return list(islice(heapq.merge(*cast("list[list[str]]", pipe.execute()), reverse=True), most))

    def between(self, oldest: str | None, below: str | None) -> dict[str, JobStatus]:
        """The state of every known job from one id up to, and without, another; None: from the first, to the last."""
        bottom, top = "-" if oldest is None else f"[{oldest}", "+" if below is None else f"({below}"
        pipe = self._redis.pipeline(transaction=True)
        for status in JobStatus:
            pipe.zrange(self._keys.status(status), cast(Any, bottom), cast(Any, top), bylex=True)
        found = cast("list[list[str]]", pipe.execute())
        return {job_id: status for status, ids in zip(JobStatus, found, strict=True) for job_id in ids}

    def forget(self, job_ids: Iterable[str]) -> None:
        """Have Redis know jobs no more that are gone from the store."""
        ids = list(job_ids)
        if not ids:
            return
        pipe = self._redis.pipeline(transaction=True)
        for status in JobStatus:
            pipe.zrem(self._keys.status(status), *ids)
        pipe.delete(*map(self._keys.job, ids), *map(self._keys.events, ids))
        pipe.execute()
