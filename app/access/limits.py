"""What a key may use up: requests, by a token bucket, and bytes of uploads, by the day. Beyond either: 429.

Both are counted in Redis, so that all API processes share one count. While Redis does not answer, each process counts
by itself, from a full bucket and zero bytes: a key then gets its share once from each process, and nobody is locked
out. Where Redis loses its memory the counts begin anew.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import redis
import structlog

from app.access.keyring import Caller
from app.problems import Problem
from app.settings import AppSettings
from worker.records import utcnow
from worker.redis_url import RedisAddress

if TYPE_CHECKING:
    import redis.asyncio

log = structlog.get_logger(__name__)
T = TypeVar("T")

PATIENCE_S = 0.5
"""A request waits no longer for Redis; without it the limits still hold within this process."""
AWAY_S = 2.0
"""Redis is left alone for so long after it did not answer."""
ALMOST = 1 - 1e-9
"""A token that is whole but for rounding."""
DAY_S = 86_400

# The same arithmetic as `Bucket.take`, on Redis' clock. key; tokens a second, most tokens, now or "" -> seconds to wait
TAKE = """
local rate, burst, now = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
if not now then
  local t = redis.call('TIME')
  now = t[1] + t[2] / 1000000
end
local held = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens, at = tonumber(held[1] or burst), tonumber(held[2] or now)
tokens = math.min(burst, tokens + math.max(0, now - at) * rate)
local wait = 0
if tokens >= 1 - 1e-9 then tokens = math.max(0, tokens - 1) else wait = (1 - tokens) / rate end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.17g', tokens), 'at', string.format('%.17g', now))
redis.call('EXPIRE', KEYS[1], math.ceil(burst / rate) + 1)
return string.format('%.17g', wait)
"""


@dataclass
class Bucket:
    """A token bucket: fills at `rate` tokens a second up to `burst`; a request takes one."""

    tokens: float
    at: float

    def take(self, rate: float, burst: float, now: float) -> float:
        """Take a token: 0, or the seconds until there is one. A clock set back neither gives nor takes."""
        self.tokens = min(burst, self.tokens + max(0.0, now - self.at) * rate)
        self.at = now
        if self.tokens >= ALMOST:
            self.tokens = max(0.0, self.tokens - 1)
            return 0.0
        return (1 - self.tokens) / rate


class Limiter:
    """Holds every caller to its share; belongs to one event loop.

    Args:
        address: The Redis that the API processes share.
        prefix: First part of its keys.
        settings: The defaults of keys that have no limits of their own.
    """

    def __init__(self, address: RedisAddress, prefix: str, settings: AppSettings) -> None:
        self._prefix, self._settings = prefix, settings
        self._redis: redis.asyncio.Redis = address.async_client(socket_timeout=PATIENCE_S)
        self._take: Any = self._redis.register_script(TAKE)
        self._away_until = 0.0
        self._away = False
        self._buckets: dict[str, Bucket] = {}
        self._received: dict[tuple[str, str], int] = {}

    async def admit(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            Problem: 429, with the time until the next one is due.
        """
        per_minute, burst = self._rate_of(caller)
        if not per_minute:
            return
        rate = per_minute / 60
        wait = await self._ask(
            lambda: self._take(keys=[f"{self._prefix}:rate:{caller.id}"], args=[rate, burst, ""]),
            lambda: self._buckets.setdefault(caller.id, Bucket(burst, time.monotonic())).take(
                rate, burst, time.monotonic()
            ),
        )
        if float(wait) > 0:
            raise Problem(
                "rate-limited",
                f"This API key may send {per_minute:,} requests a minute, {burst:,} of them at once.",
                retry_after_s=math.ceil(float(wait)),
            )

    def _rate_of(self, caller: Caller) -> tuple[int, int]:
        """Requests a minute (0: no limit) and at once."""
        settings = self._settings
        own = caller.requests_per_minute
        per_minute = settings.key_requests_per_minute if own is None else own
        return per_minute, caller.burst or max(1, min(settings.key_burst, per_minute))

    async def expect_upload(self, caller: Caller, announced: int) -> None:
        """Refuse an upload that says itself that it is too large.

        Raises:
            Problem: 429.
        """
        quota = self._quota_of(caller)
        if not quota:
            return
        key, today = self._day_of(caller)
        received = await self._ask(lambda: self._redis.get(key), lambda: self._received.get((caller.id, today), 0))
        if int(received or 0) + announced > quota:
            raise self._over_quota(quota, int(received or 0))

    async def count_upload(self, caller: Caller, size: int) -> None:
        """Count bytes that have arrived.

        Raises:
            Problem: 429, they are too many.
        """
        quota = self._quota_of(caller)
        if not quota or not size:
            return
        key, today = self._day_of(caller)

        async def shared() -> int:
            pipe = self._redis.pipeline(transaction=False)
            pipe.incrby(key, size)
            pipe.expire(key, 2 * DAY_S)
            return int((await pipe.execute())[0])

        def alone() -> int:
            if any(day != today for _, day in self._received):
                self._received.clear()
            self._received[caller.id, today] = self._received.get((caller.id, today), 0) + size
            return self._received[caller.id, today]

        received = await self._ask(shared, alone)
        if received > quota:
            raise self._over_quota(quota, received - size)

    def _quota_of(self, caller: Caller) -> int:
        own = caller.upload_bytes_per_day
        return self._settings.key_upload_bytes_per_day if own is None else own

    def _day_of(self, caller: Caller) -> tuple[str, str]:
        today = utcnow().date().isoformat()
        return f"{self._prefix}:received:{caller.id}:{today}", today

    @staticmethod
    def _over_quota(quota: int, received: int) -> Problem:
        now = utcnow()
        midnight = datetime.combine(now.date() + timedelta(days=1), datetime.min.time(), UTC)
        return Problem(
            "quota-exceeded",
            f"This API key may upload {quota:,} bytes a day and has sent {received:,} since midnight (UTC); "
            "this upload does not fit.",
            retry_after_s=math.ceil((midnight - now).total_seconds()),
            close=True,
        )

    async def _ask(self, shared: Callable[[], Awaitable[T]], alone: Callable[[], T]) -> T:
        if time.monotonic() < self._away_until:
            return alone()
        try:
            async with asyncio.timeout(PATIENCE_S):
                answer = await shared()
        except (redis.RedisError, OSError, TimeoutError) as error:
            self._away_until = time.monotonic() + AWAY_S
            if not self._away:
                log.warning("redis does not answer, limits are counted by this process alone", error=str(error))
            self._away = True
            return alone()
        if self._away:
            log.info("limits are counted in redis again")
            self._away = False
            self._buckets.clear()
        return answer

    async def aclose(self) -> None:
        """Let the connections go."""
        await self._redis.aclose()
