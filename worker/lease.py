"""The lease: who may work on a job, decided in Redis by small scripts on Redis' own clock.

Two numbers guard a job. `fence` rises at every claim, so that an owner of yesterday is told apart. `charged` rises
only when an attempt dies with no progress made durable since it began (`mark`): three of those and the job is given up,
while drains, reboots and crashes of a job that gets on poison nobody.

Nothing here is the truth about a job's end: that is the create-once file in the store. Where a script finds that a job
must end (`poison`, `cancelled`) it says so and keeps the lease for one more TTL, so that another process says it again
if this one dies before the file is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Literal, cast

import redis

from worker.keys import Keys
from worker.records import JobSpec, JobStatus
from worker.settings import WorkerSettings
from worker.turns import LINES, LOOK, ORDER, RECENT_JOBS, Moment, read_moments

Clock = Callable[[], int]
"""Milliseconds now."""

Verdict = Literal["queued", "poison", "cancelled", "alive", "gone"]
"""What became of a job whose worker may be dead."""

BASICS = """
local P = ARGV[1]
local now = tonumber(ARGV[2])
if not now then
  local t = redis.call('TIME')
  now = t[1] * 1000 + math.floor(t[2] / 1000)
end
local function key(id) return P .. ':job:' .. id end
local function get(id, field) return redis.call('HGET', key(id), field) end
local function num(id, field) return tonumber(get(id, field) or 0) end
local function move(id, status)
  for _, other in ipairs({'queued', 'running', 'succeeded', 'failed', 'cancelled'}) do
    if other ~= status then redis.call('ZREM', P .. ':status:' .. other, id) end
  end
  redis.call('ZADD', P .. ':status:' .. status, 0, id)
  redis.call('HSET', key(id), 'status', status)
end
"""

LEASING = """
local function lease(id, ends)
  redis.call('HSET', key(id), 'lease_until', ends)
  redis.call('ZADD', P .. ':leases', ends, id)
end
-- The owner is gone. how: drained | outage | died; only the last may cost a charge.
local function release(id, how, cap)
  local verdict = get(id, 'verdict')
  if not verdict then
    if how == 'died' and num(id, 'mark') <= num(id, 'mark_at_claim') then
      redis.call('HINCRBY', key(id), 'charged', 1)
    end
    if get(id, 'cancel') then verdict = 'cancelled'
    elseif how == 'died' and num(id, 'charged') >= cap then verdict = 'poison' end
  end
  if verdict then
    redis.call('HSET', key(id), 'verdict', verdict)
    lease(id, now + num(id, 'ttl'))
    return verdict
  end
  redis.call('ZREM', P .. ':leases', id)
  redis.call('HDEL', key(id), 'lease_until', 'pid', 'worker')
  give_turn_back(queue_of(id), id)
  join(id)
  move(id, 'queued')
  return 'queued'
end
"""

PRELUDE = BASICS + LINES + LEASING

# of each job id, queue, owner, fence, charged -> how many were unknown and are queued now
ENQUEUE = """
local fresh = 0
for n = 3, #ARGV, 5 do
  local id = ARGV[n]
  local status = get(id, 'status')
  if not status or status == 'queued' then
    redis.call('HSETNX', key(id), 'owner', ARGV[n + 2])
    if not status then
      redis.call('HSET', key(id), 'queue', ARGV[n + 1], 'fence', ARGV[n + 3], 'charged', ARGV[n + 4])
      move(id, 'queued')
      fresh = fresh + 1
    end
    join(id) -- where it was queued it stands in its line, or did not get there
  end
end
return fresh
"""

# id, queue, owner, fence, charged, node, boot, worker, pid, ttl, started -> 1 if it was unknown and runs now
ADOPT = """
local id = ARGV[3]
if get(id, 'status') then return 0 end
redis.call('HSET', key(id), 'queue', ARGV[4], 'owner', ARGV[5], 'fence', ARGV[6], 'charged', ARGV[7], 'node', ARGV[8],
  'boot', ARGV[9], 'worker', ARGV[10], 'pid', ARGV[11], 'ttl', ARGV[12], 'started_at', ARGV[13], 'claimed_at', ARGV[13])
lease(id, now + 2 * tonumber(ARGV[12]))
move(id, 'running')
return 1
"""

# queue, node, boot, worker, pid, ttl -> nothing, or id, fence, charged, now: the next waiting job is the caller's
CLAIM = """
local queue = P .. ':queue:' .. ARGV[3]
while true do
  local next = rotation(queue)[1]
  if not next then return nil end
  local id = next.first
  leave(id)
  if get(id, 'status') == 'queued' then
    take_turn(queue, id)
    local fence = redis.call('HINCRBY', key(id), 'fence', 1)
    redis.call('HDEL', key(id), 'verdict')
    redis.call('HSETNX', key(id), 'started_at', now)
    redis.call('HSET', key(id), 'node', ARGV[4], 'boot', ARGV[5], 'worker', ARGV[6], 'pid', ARGV[7], 'ttl', ARGV[8],
      'mark_at_claim', num(id, 'mark'), 'idle', 0, 'claimed_at', now)
    lease(id, now + tonumber(ARGV[8]))
    move(id, 'running')
    return {id, fence, num(id, 'charged'), now}
  end
end
"""

# id, fence, at_least -> the new fence: an attempt file of this number was there already
RAISE = """
local id = ARGV[3]
if get(id, 'status') ~= 'running' or num(id, 'fence') ~= tonumber(ARGV[4]) then return 0 end
redis.call('HSET', key(id), 'fence', ARGV[5])
return tonumber(ARGV[5])
"""

# id, fence, renew (1 or 0), milliseconds since the last step -> state, cancel
RENEW = """
local id = ARGV[3]
local status = get(id, 'status')
if not status then return {'missing', 0} end
if status ~= 'running' or num(id, 'fence') ~= tonumber(ARGV[4]) or get(id, 'verdict') then return {'lost', 0} end
redis.call('HSET', key(id), 'idle', ARGV[6])
if ARGV[5] == '1' then lease(id, now + num(id, 'ttl')) end
return {'held', tonumber(get(id, 'cancel') or 0)}
"""

# id, fence -> 1: something of this attempt is durable, its death costs nothing
MARK = """
local id = ARGV[3]
if get(id, 'status') ~= 'running' or num(id, 'fence') ~= tonumber(ARGV[4]) then return 0 end
redis.call('HINCRBY', key(id), 'mark', 1)
return 1
"""

# id, fence, how, cap -> verdict, charged
RELEASE = """
local id = ARGV[3]
if get(id, 'status') ~= 'running' or num(id, 'fence') ~= tonumber(ARGV[4]) then return {'gone', 0} end
local verdict = release(id, ARGV[5], tonumber(ARGV[6]))
return {verdict, num(id, 'charged')}
"""

# id, node, boot, cap -> verdict, charged, fence. A reboot of the node is an outage, not the job's doing.
REAP = """
local id = ARGV[3]
local ends = tonumber(redis.call('ZSCORE', P .. ':leases', id) or 0)
if get(id, 'status') ~= 'running' then
  redis.call('ZREM', P .. ':leases', id)
  return {'gone', 0, 0}
end
local ttl = num(id, 'ttl')
if ends > now + 3 * ttl then lease(id, now + ttl) return {'alive', 0, 0} end -- the clock was set back
if ends > now then return {'alive', 0, 0} end
local how = 'died'
if get(id, 'node') == ARGV[4] and get(id, 'boot') ~= ARGV[5] then how = 'outage' end
local verdict = release(id, how, tonumber(ARGV[6]))
return {verdict, num(id, 'charged'), num(id, 'fence')}
"""

# id, status, seconds to live, recent jobs to keep, then name and number of what to count
# -> 1 if it was in another state before; only then is anything counted
SETTLE = """
local id = ARGV[3]
local before, claimed = get(id, 'status'), get(id, 'claimed_at')
if redis.call('ZSCORE', P .. ':status:' .. ARGV[4], id) then before = ARGV[4] end -- its hash has run out
if before == 'running' and ARGV[4] == 'succeeded' and claimed then
  redis.call('LPUSH', queue_of(id) .. ':took', math.max(0, now - claimed))
  redis.call('LTRIM', queue_of(id) .. ':took', 0, ARGV[6] - 1)
end
redis.call('ZREM', P .. ':leases', id)
leave(id)
move(id, ARGV[4])
redis.call('HDEL', key(id), 'verdict', 'lease_until', 'pid', 'worker')
redis.call('EXPIRE', key(id), ARGV[5])
if before == ARGV[4] then return 0 end
for n = 7, #ARGV, 2 do redis.call('HINCRBYFLOAT', P .. ':tally', ARGV[n], ARGV[n + 1]) end
return 1
"""

# seconds to live, then of each job id, status: what the store says of jobs that ended; nothing is counted
RECALL = """
for n = 4, #ARGV, 2 do
  local id = ARGV[n]
  redis.call('ZREM', P .. ':leases', id)
  leave(id)
  move(id, ARGV[n + 1])
  redis.call('EXPIRE', key(id), ARGV[3])
end
"""

# id -> status before, or 'missing'
CANCEL = """
local id = ARGV[3]
local status = get(id, 'status')
if not status then return 'missing' end
if status == 'queued' or status == 'running' then redis.call('HSET', key(id), 'cancel', 1) end
return status
"""

WORKER_SEEN_MS = 15_000
"""A worker not seen for so long does not count."""


@dataclass(frozen=True)
class Identity:
    """Who claims: the machine, its boot, the worker's main process and the child that computes."""

    node: str
    boot: str
    worker: str
    pid: int


@dataclass(frozen=True)
class Lease:
    """A claim that was granted."""

    job_id: str
    fence: int
    charged: int
    claimed_at: int  # milliseconds


@dataclass(frozen=True)
class Held:
    """One running job as Redis sees it."""

    job_id: str
    fence: int
    node: str
    boot: str
    worker: str
    pid: int
    idle_ms: int  # since its last step, by its own steady clock


class LeaseScripts:
    """The scripts, typed. Every call is one atomic step in Redis."""

    def __init__(self, client: redis.Redis, keys: Keys, settings: WorkerSettings, clock: Clock | None = None) -> None:
        self._redis = client
        self._keys = keys
        self._clock = clock
        self._ttl_ms = int(settings.lease_ttl_s * 1000)
        self._cap = settings.max_charges
        self._keep_s = settings.events_ttl_s
        names = {
            "enqueue": ENQUEUE,
            "adopt": ADOPT,
            "claim": CLAIM,
            "raise": RAISE,
            "renew": RENEW,
            "mark": MARK,
            "release": RELEASE,
            "reap": REAP,
            "settle": SETTLE,
            "cancel": CANCEL,
            "recall": RECALL,
            "order": ORDER,
            "look": LOOK,
        }
        self._scripts = {name: client.register_script(PRELUDE + body) for name, body in names.items()}

    def _call(self, name: str, *args: str | int) -> Any:
        now = "" if self._clock is None else str(self._clock())
        return self._scripts[name](keys=[], args=[self._keys.prefix, now, *args])

    def now_ms(self) -> int:
        """Redis' clock, or the test's."""
        if self._clock is not None:
            return self._clock()
        seconds, micros = self._redis.time()
        return seconds * 1000 + micros // 1000

    def enqueue(self, job_id: str, queue: str, *, owner: str | None = None, fence: int = 0, charged: int = 0) -> bool:
        """Make a job wait in the line of its owner (the API key it came with); False where Redis knows it already."""
        return bool(self._call("enqueue", job_id, queue, owner or "", fence, charged))

    def enqueue_all(self, jobs: Sequence[tuple[JobSpec, int, int]]) -> int:
        """The same for many, each with its fence and charges, in one step; how many Redis did not know."""
        rows = ([spec.id, spec.queue, spec.owner or "", str(fence), str(charged)] for spec, fence, charged in jobs)
        return int(self._call("enqueue", *chain.from_iterable(rows)))

    def adopt(
        self,
        job_id: str,
        queue: str,
        who: Identity,
        *,
        owner: str | None = None,
        fence: int,
        charged: int,
        started_ms: int,
    ) -> bool:
        """Take a job for running that Redis forgot: its worker renews within 2 TTL, or is dead."""
        mine = (who.node, who.boot, who.worker, who.pid)
        return bool(self._call("adopt", job_id, queue, owner or "", fence, charged, *mine, self._ttl_ms, started_ms))

    def order(self, queue: str, most: int = 1_000_000) -> list[str]:
        """The first waiting jobs, in the order in which they will start."""
        return cast(list[str], self._call("order", queue, most))

    def look(self, job_ids: Sequence[str]) -> list[Moment]:
        """What is known of jobs at one moment, and what those that wait have before them."""
        return read_moments(self._call("look", WORKER_SEEN_MS, *job_ids))

    def claim(self, queue: str, who: Identity) -> Lease | None:
        """The next waiting job, now the caller's."""
        found = self._call("claim", queue, who.node, who.boot, who.worker, who.pid, self._ttl_ms)
        if found is None:
            return None
        return Lease(str(found[0]), int(found[1]), int(found[2]), int(found[3]))

    def raise_fence(self, lease: Lease, at_least: int) -> Lease | None:
        """The same lease under a higher fence; None where it is not the caller's any more."""
        fence = int(self._call("raise", lease.job_id, lease.fence, max(at_least, lease.fence + 1)))
        return Lease(lease.job_id, fence, lease.charged, lease.claimed_at) if fence else None

    def renew(
        self, job_id: str, fence: int, *, extend: bool = True, idle_ms: int = 0
    ) -> tuple[Literal["held", "lost", "missing"], bool]:
        """Whether the lease is still the caller's, and whether somebody asked to cancel."""
        state, cancel = self._call("renew", job_id, fence, int(extend), idle_ms)
        return state, bool(cancel)

    def mark(self, job_id: str, fence: int) -> bool:
        """Say that this attempt has made something durable."""
        return bool(self._call("mark", job_id, fence))

    def release(self, job_id: str, fence: int, how: Literal["drained", "outage", "died"]) -> tuple[Verdict, int]:
        """The owner is gone: what becomes of the job, and its charges."""
        verdict, charged = self._call("release", job_id, fence, how, self._cap)
        return verdict, int(charged)

    def reap(self, job_id: str, node: str, boot: str) -> tuple[Verdict, int, int]:
        """Release the job if its lease has ended: verdict, charges, fence."""
        verdict, charged, fence = self._call("reap", job_id, node, boot, self._cap)
        return verdict, int(charged), int(fence)

    def settle(self, job_id: str, status: JobStatus, counts: Mapping[str, float] | None = None) -> bool:
        """Copy a terminal state from the store, and count what is told; False, uncounted, where Redis had it."""
        flat = [str(part) for pair in (counts or {}).items() for part in pair]
        return bool(self._call("settle", job_id, status.value, self._keep_s, RECENT_JOBS, *flat))

    def recall(self, ended: Mapping[str, JobStatus]) -> None:
        """Copy terminal states of jobs that Redis does not know."""
        self._call(
            "recall", self._keep_s, *(part for job_id, status in ended.items() for part in (job_id, status.value))
        )

    def cancel(self, job_id: str) -> str:
        """Set the flag the owner polls; the state the job was in, or `missing`."""
        return str(self._call("cancel", job_id))

    def expired(self) -> list[str]:
        """Jobs whose lease has ended, or ends implausibly late."""
        now = self.now_ms()
        late = now + 3 * self._ttl_ms
        ended = cast(list[str], self._redis.zrangebyscore(self._keys.leases, "-inf", now))
        return ended + cast(list[str], self._redis.zrangebyscore(self._keys.leases, f"({late}", "+inf"))

    def held(self) -> list[Held]:
        """Every running job."""
        ids = cast(list[str], self._redis.zrange(self._keys.leases, 0, -1))
        if not ids:
            return []
        pipe = self._redis.pipeline(transaction=False)
        for job_id in ids:
            pipe.hmget(self._keys.job(job_id), ["status", "fence", "node", "boot", "worker", "pid", "idle", "verdict"])
        return [
            Held(job_id, int(fence), node or "", boot or "", worker or "", int(pid or 0), int(idle or 0))
            for job_id, (status, fence, node, boot, worker, pid, idle, verdict) in zip(ids, pipe.execute(), strict=True)
            if status == "running" and fence and not verdict
        ]
