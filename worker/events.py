"""Progress, as a Redis stream a job, and one tailer a job and process that hands it to every listener.

The id of an event is its id in the stream, so that a listener who comes back says what it has seen last. Events:

    snapshot   the whole job record, first, unless the listener resumes
    status     {"status", "attempt"}: running, or queued again
    progress   phase, step, total_steps, loss, accuracy, eta_seconds, epoch
    geometry   the collapse metrics of one epoch, and a picture of the class directions; at most 51 a stage
    end        the whole record of the ended job; always the last
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, cast

import redis
import structlog

from worker.keys import Keys
from worker.records import JobRecord
from worker.redis_url import RedisAddress
from worker.settings import WorkerSettings

if TYPE_CHECKING:
    import redis.asyncio

log = structlog.get_logger(__name__)

BLOCK_MS = 5_000
RETRY_S = 1.0
LISTENER_QUEUE = 256
RESUME_ID = r"^\d{1,20}-\d{1,20}$"


class Event(TypedDict):
    """One event; `id` is empty where the stream has none."""

    id: str
    event: str
    data: dict[str, Any]


class Records(Protocol):
    """What a tailer asks of the job store."""

    def get(self, job_id: str) -> JobRecord: ...


class Events:
    """Publish in any process, tail in an event loop."""

    def __init__(
        self, client: redis.Redis, address: RedisAddress, keys: Keys, jobs: Records, settings: WorkerSettings
    ) -> None:
        self._redis = client
        self._address = address
        self._keys = keys
        self._jobs = jobs
        self._settings = settings
        self._tailers: dict[str, _Tailer] = {}
        self._async: redis.asyncio.Redis | None = None

    def publish(self, job_id: str, event: str, data: dict[str, Any]) -> None:
        """Add an event. Progress is worth losing: a Redis that does not answer is not an error here."""
        key = self._keys.events(job_id)
        text = json.dumps(data, separators=(",", ":"), allow_nan=False, default=str)
        try:
            pipe = self._redis.pipeline(transaction=False)
            pipe.xadd(key, {"event": event, "data": text}, maxlen=self._settings.events_max, approximate=True)
            pipe.expire(key, self._settings.events_ttl_s)
            if event == "progress":
                pipe.hset(self._keys.job(job_id), "progress", text)
            pipe.execute()
        except redis.RedisError as error:
            log.debug("event lost", job=job_id, event_type=event, error=str(error))

    async def tail(self, job_id: str, last_id: str | None = None) -> AsyncIterator[Event]:
        """Every event of a job from now on, or after `last_id`; ends after `end`.

        Raises:
            NotFoundError: no such job; before the first event.
        """
        record = await asyncio.to_thread(self._jobs.get, job_id)
        if record.status.terminal and last_id is None:
            yield _told("snapshot", record)
            yield _told("end", record)
            return
        listener = _Listener()
        tailer = self._join(job_id, listener)
        try:
            await tailer.started.wait()  # what comes after the looks below is handed out: nothing falls between
            if last_id is None:
                at = await tailer.last_id()
                record = await asyncio.to_thread(self._jobs.get, job_id)
                first = [_told("snapshot", record, at)]
            else:
                first = await tailer.since(last_id)
                record = await asyncio.to_thread(self._jobs.get, job_id)
            seen = last_id or ""
            for event in first:
                yield event
                seen = event["id"] or seen
                if event["event"] == "end":
                    return
            if record.status.terminal:
                yield _told("end", record)
                return
            while True:
                event = await listener.next()
                if event["event"] != "end" and event["id"] and not _after(event["id"], seen):
                    continue  # it was in the snapshot's past, or among the resumed ones
                yield event
                if event["event"] == "end":
                    return
        finally:
            await self._leave(job_id, tailer, listener)

    async def aclose(self) -> None:
        """Stop every tailer of this event loop."""
        for tailer in list(self._tailers.values()):
            await tailer.stop()
        self._tailers.clear()
        if self._async is not None:
            await self._async.aclose()
            self._async = None

    def _join(self, job_id: str, listener: _Listener) -> _Tailer:
        if self._async is None:
            self._async = self._address.async_client(max_connections=10_000)
        tailer = self._tailers.get(job_id)
        if tailer is None:
            tailer = self._tailers[job_id] = _Tailer(job_id, self._async, self._keys.events(job_id), self._jobs)
        tailer.listeners.append(listener)
        return tailer

    async def _leave(self, job_id: str, tailer: _Tailer, listener: _Listener) -> None:
        with contextlib.suppress(ValueError):
            tailer.listeners.remove(listener)
        if not tailer.listeners and self._tailers.get(job_id) is tailer:
            del self._tailers[job_id]
            await tailer.stop()


class _Listener:
    """A bounded queue: a slow reader loses its oldest progress, never the end."""

    def __init__(self) -> None:
        self._events: deque[Event] = deque()
        self._arrived = asyncio.Event()

    def put(self, event: Event) -> None:
        if len(self._events) >= LISTENER_QUEUE:
            self._events.popleft()  # `end` is the last one put, so never the one that goes
        self._events.append(event)
        self._arrived.set()

    async def next(self) -> Event:
        while not self._events:
            self._arrived.clear()
            await self._arrived.wait()
        return self._events.popleft()


class _Tailer:
    """Reads one stream for all listeners of a job in this process."""

    def __init__(self, job_id: str, client: redis.asyncio.Redis, key: str, jobs: Records) -> None:
        self.listeners: list[_Listener] = []
        self.started = asyncio.Event()
        self._job_id = job_id
        self._redis = client
        self._key = key
        self._jobs = jobs
        self._stopped = False
        self._task = asyncio.create_task(self._read(), name=f"tail {job_id}")

    async def last_id(self) -> str:
        """The newest id of the stream: what a snapshot taken after this call includes."""
        try:
            newest = await self._redis.xrevrange(self._key, count=1)
        except redis.RedisError:
            return ""
        return str(newest[0][0]) if newest else "0-0"

    async def since(self, last_id: str) -> list[Event]:
        """What a returning listener has missed."""
        try:
            missed = await self._redis.xrange(self._key, min=f"({last_id}")
            return [_event(*entry) for entry in cast("list[tuple[str, dict[str, str]]]", missed or [])]
        except (redis.RedisError, ValueError):
            return []  # an id that cannot be one, an entry that cannot be read, or no Redis: go on from here

    async def stop(self) -> None:
        self._stopped = True
        while not self._task.done():  # redis-py may take a cancel that comes while it connects for a timeout
            self._task.cancel()
            await asyncio.wait({self._task}, timeout=0.5)

    async def _read(self) -> None:
        at = await self.last_id()
        self.started.set()
        while not self._stopped:
            try:
                found = await self._redis.xread({self._key: at or "0-0"}, count=200, block=BLOCK_MS)
                events = [_event(*entry) for entry in _entries(found)]
            except (redis.RedisError, OSError, ValueError) as error:  # whatever it is, the listeners wait for the end
                log.debug("stream not readable", job=self._job_id, error=str(error))
                await asyncio.sleep(RETRY_S)
                events = []
            for event in events:
                self._hand_out(event)
                at = event["id"]
                if event["event"] == "end":
                    return
            if not events and await self._ended():
                return

    async def _ended(self) -> bool:
        """Redis may have lost the stream, not the job: the folder says whether it ended."""
        try:
            record = await asyncio.to_thread(self._jobs.get, self._job_id)
        except Exception as error:
            log.warning("job not readable", job=self._job_id, error=str(error))
            return False
        if record.status.terminal:
            self._hand_out(_told("end", record))
        return record.status.terminal

    def _hand_out(self, event: Event) -> None:
        for listener in self.listeners:
            listener.put(event)


def _entries(found: Any) -> list[tuple[str, dict[str, str]]]:
    """The entries of the one stream asked for, in either protocol's shape of the answer."""
    if not found:
        return []
    streams = found.values() if isinstance(found, dict) else [stream for _, stream in found]
    return [(entry_id, fields) for part in streams for entry_id, fields in (part[0] if _nested(part) else part)]


def _nested(part: Any) -> bool:
    return bool(part) and isinstance(part[0], list)


def _event(entry_id: str, fields: dict[str, str]) -> Event:
    return {"id": entry_id, "event": fields.get("event", "progress"), "data": json.loads(fields.get("data", "{}"))}


def _told(kind: str, record: JobRecord, event_id: str = "") -> Event:
    return {"id": event_id, "event": kind, "data": record.model_dump(mode="json")}


def _after(left: str, right: str) -> bool:
    if not right:
        return True
    return _numbers(left) > _numbers(right)


def _numbers(entry_id: str) -> tuple[int, int]:
    time_part, _, count = entry_id.partition("-")
    return (int(time_part), int(count or 0)) if time_part.isdigit() and (count or "0").isdigit() else (0, 0)
