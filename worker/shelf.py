"""Data sets by age: a sorted set of ids in Redis, made again from the store where it is lost.

Their ids are hashes of their pictures and tell no age. A listing that asks the store reads every record there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import cast

import redis
import structlog

from worker.archives import LOCK
from worker.bus import Bus
from worker.errors import NotFoundError, WorkerError
from worker.ids import DATASET_ID_PATTERN
from worker.jobfiles import read_record
from worker.patience import Patience
from worker.records import DatasetRecord
from worker.store.base import Store

log = structlog.get_logger(__name__)

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AT_ONCE = 200
"""Data sets that are read under one hold of the lock."""


class DatasetShelf:
    """Which data set is older than which. Scores are microseconds, as exact as the records' own times."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store, self._redis, self._keys, self._memory = store, bus.redis, bus.keys, bus.memory
        self._patience = Patience()

    def put(self, record: DatasetRecord) -> None:
        """A data set was stored. Call it with the lock of the data sets held."""
        self._tell(lambda: self._redis.zadd(self._keys.datasets, {record.id: age_of(record)}))

    def drop(self, dataset_id: str) -> None:
        """A data set was removed. Call it with the lock held."""
        self._tell(lambda: self._redis.zrem(self._keys.datasets, dataset_id))

    def _tell(self, change: Callable[[], object]) -> None:
        try:
            change()
        except redis.RedisError as error:
            self._memory.doubt()
            log.warning("data set not noted, Redis does not answer", error=str(error))

    def newest(self, below: str | None, most: int) -> list[str] | None:
        """The newest ids, the newest first, at most so many; `below`: after that id. None where Redis cannot tell."""

        def question() -> list[str] | None:
            if not self._memory.whole():
                return None
            first = 0
            if below is not None:
                rank = cast("int | None", self._redis.zrevrank(self._keys.datasets, below))
                if rank is None:
                    return None
                first = rank + 1
            return cast("list[str]", self._redis.zrange(self._keys.datasets, first, first + most - 1, desc=True))

        return self._patience.ask(question, None)

    def fill(self) -> int:
        """Note what the store has and Redis does not know, forget what is gone; how many data sets there are.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        stored = {name for name in self._store.names("datasets") if DATASET_ID_PATTERN.fullmatch(name)}
        known = set(cast("list[str]", self._redis.zrange(self._keys.datasets, 0, -1)))
        different = iter(sorted(stored ^ known))
        while some := list(islice(different, AT_ONCE)):
            with self._store.lock(LOCK):
                ages = dict(self._ages(some))
                gone = [dataset_id for dataset_id in some if dataset_id not in ages]
                pipe = self._redis.pipeline(transaction=True)
                if ages:
                    pipe.zadd(self._keys.datasets, ages)
                if gone:
                    pipe.zrem(self._keys.datasets, *gone)
                pipe.execute()
        return len(stored)

    def _ages(self, ids: list[str]) -> Iterator[tuple[str, int]]:
        for dataset_id in ids:
            try:
                record = read_record(self._store, f"datasets/{dataset_id}/dataset.json", DatasetRecord)
            except NotFoundError:
                continue
            except WorkerError as error:
                log.error("data set left out", dataset=dataset_id, error=error.message)
                continue
            yield dataset_id, age_of(record)


def age_of(record: DatasetRecord) -> int:
    """Microseconds since 1970: a number that a score of Redis holds exactly."""
    return (record.created_at - EPOCH) // timedelta(microseconds=1)
