"""Whose job starts next, and when: the keys that wait take turns; within a key the oldest job goes first.

A hundred jobs of one key must not keep another key's single job waiting. Each owner (API key) has a line of its own,
a sorted set of time-ordered job ids. The next job is the first of the line whose owner has gone longest without a turn;
an owner that never had one goes before them, and among those the oldest job decides. Between two starts of one owner
every other owner starts one job at most, so nobody starves, and who was idle has gained one turn, not many.

A job that comes back (its worker was drained, or died) gives its turn back too: it is next, as it would have been.

The turns are kept in Redis and are forgotten with it; the round then begins anew with the oldest job.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from worker.records import JobProgress

RECENT_JOBS = 50
"""The estimate looks back on so many jobs."""
BISECTIONS = 50
"""Finds one of 10^9 starts to a millionth of a job."""

LINES = """
local function queue_of(id) return P .. ':queue:' .. (get(id, 'queue') or 'default') end
local function owner_of(id) return get(id, 'owner') or '' end
local function line(queue, owner) return queue .. ':of:' .. owner end
-- `turn_before` is what the owner's last turn was; empty: it had none
local function take_turn(queue, id)
  local owner, turns = owner_of(id), queue .. ':turns'
  redis.call('HSET', key(id), 'turn_before', redis.call('ZSCORE', turns, owner) or '')
  redis.call('ZADD', turns, (redis.call('ZREVRANGE', turns, 0, 0, 'WITHSCORES')[2] or 0) + 1, owner)
end
local function give_turn_back(queue, id)
  local owner, turns, before = owner_of(id), queue .. ':turns', get(id, 'turn_before')
  if not before then return end
  redis.call('HDEL', key(id), 'turn_before')
  local current = redis.call('ZSCORE', turns, owner)
  if before == '' then redis.call('ZREM', turns, owner)
  elseif current and tonumber(current) > tonumber(before) then redis.call('ZADD', turns, before, owner) end
end
local function join(id)
  local queue, owner = queue_of(id), owner_of(id)
  redis.call('ZADD', line(queue, owner), 0, id)
  redis.call('SADD', queue .. ':owners', owner)
end
local function leave(id)
  local queue, owner = queue_of(id), owner_of(id)
  redis.call('ZREM', line(queue, owner), id)
  if redis.call('EXISTS', line(queue, owner)) == 0 then redis.call('SREM', queue .. ':owners', owner) end
end
-- {owner, first, turn} of everybody who waits, in the order of their turns
local function rotation(queue)
  local found = {}
  for _, owner in ipairs(redis.call('SMEMBERS', queue .. ':owners')) do
    local first = redis.call('ZRANGE', line(queue, owner), 0, 0)[1]
    if first then
      local turn = tonumber(redis.call('ZSCORE', queue .. ':turns', owner) or 0)
      found[#found + 1] = {owner = owner, first = first, turn = turn}
    end
  end
  table.sort(found, function(a, b)
    if a.turn ~= b.turn then return a.turn < b.turn end
    return a.first < b.first
  end)
  return found
end
"""

# queue, most -> ids in the order in which they will start
ORDER = """
local queue, most = P .. ':queue:' .. ARGV[3], tonumber(ARGV[4])
local lines, order = {}, {}
for _, each in ipairs(rotation(queue)) do
  lines[#lines + 1] = redis.call('ZRANGE', line(queue, each.owner), 0, most - 1)
end
local round, found = 0, true
while found do
  round, found = round + 1, false
  for _, ids in ipairs(lines) do
    if ids[round] then
      if #order == most then return order end
      order[#order + 1], found = ids[round], true
    end
  end
end
return order
"""

# milliseconds a worker counts, ids -> of each id {status, progress, jobs before it or -1, number of its queue}, and of
# each queue that one waits in {workers, milliseconds of recent jobs, of all that run {ran for, progress}}. Before a
# job: what its own line has before it, and of every other line as many, and one more where that line is ahead.
LOOK = """
local facts, queues, places = {}, {}, {}
local function place_of(queue)
  if not places[queue] then
    local running = {}
    for _, other in ipairs(redis.call('ZRANGE', P .. ':leases', 0, -1)) do
      if get(other, 'status') == 'running' and queue_of(other) == queue then
        running[#running + 1] = {now - num(other, 'claimed_at'), get(other, 'progress') or ''}
      end
    end
    local workers = redis.call('ZCOUNT', P .. ':workers', now - tonumber(ARGV[3]), '+inf')
    queues[#queues + 1] = {workers, redis.call('LRANGE', queue .. ':took', 0, -1), running}
    local lines = rotation(queue)
    for _, each in ipairs(lines) do each.length = redis.call('ZCARD', line(queue, each.owner)) end
    places[queue] = {number = #queues, lines = lines}
  end
  return places[queue]
end
for n = 4, #ARGV do
  local id = ARGV[n]
  local status, before, number = get(id, 'status') or '', -1, 0
  if status == 'queued' then
    local queue, owner = queue_of(id), owner_of(id)
    local own = redis.call('ZRANK', line(queue, owner), id)
    if own then
      local place, ahead = place_of(queue), 1
      before, number = own, place.number
      for _, each in ipairs(place.lines) do
        if each.owner == owner then ahead = 0
        else before = before + math.min(each.length, own + ahead) end
      end
    end
  end
  facts[#facts + 1] = {status, get(id, 'progress') or '', before, number}
end
return {facts, queues}
"""


@dataclass(frozen=True)
class Outlook:
    """What a waiting job has before it.

    Attributes:
        before: Jobs that start first.
        workers: Workers seen lately.
        took: Seconds of recent jobs.
        running: (seconds since its start, seconds left by its own account or None) of every running job.
    """

    before: int
    workers: int
    took: tuple[float, ...]
    running: tuple[tuple[float, float | None], ...]

    @property
    def starts_in_seconds(self) -> float | None:
        """How long until the job starts, if all goes on as it lately did; None where nothing is known to go by."""
        idle = self.workers - len(self.running)
        if not self.workers:
            return None
        if self.before < idle:
            return 0.0
        usual = sum(self.took) / len(self.took) if self.took else None
        if usual is None:
            if self.before or any(left is None for _, left in self.running):
                return None
            usual = 0.0  # needed by nothing below
        free = [0.0] * idle  # when each worker is free; who is free first takes the next job
        free += [max(0.0, usual - ran) if left is None else left for ran, left in self.running]
        return round(nth_start(free, usual, self.before), 1)


@dataclass(frozen=True)
class Moment:
    """What Redis knows of a job now.

    Attributes:
        status: Empty where Redis does not know the job.
        progress: As it was told, in JSON; empty where nothing was.
        outlook: None where the job does not wait.
    """

    status: str = ""
    progress: str = ""
    outlook: Outlook | None = None


def read_moments(answer: Any) -> list[Moment]:
    """What the script `LOOK` answers, job by job."""
    facts, queues = answer
    shared = [
        (
            int(workers),
            tuple(int(each) / 1000 for each in took),
            tuple((max(0, int(ran)) / 1000, _left(progress)) for ran, progress in running),
        )
        for workers, took, running in queues
    ]
    return [
        Moment(status, progress, Outlook(int(before), *shared[int(number) - 1]) if int(before) >= 0 else None)
        for status, progress, before, number in facts
    ]


def nth_start(free: Sequence[float], usual: float, n: int) -> float:
    """When the job with `n` before it starts, where each takes as long as the others.

    A worker that is free at `f` starts jobs at f, f + usual, f + 2 usual and so on: the answer is the n-th of all those
    moments, found by bisection, for thousands may wait and a page of a listing asks for each of them.

    Args:
        free: When each worker is free.
        usual: Seconds of a job.
        n: Jobs before it.
    """
    if not usual:
        return min(free)

    def started(until: float) -> int:
        return sum(int((until - each) // usual) + 1 for each in free if each <= until)

    low, high = min(free), min(free) + (n + 0.5) * usual  # by then even one worker alone has started it
    if started(low) > n:
        return low
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        low, high = (low, middle) if started(middle) > n else (middle, high)
    return max(each + usual * ((high - each) // usual) for each in free if each <= high)


def _left(progress: str) -> float | None:
    try:
        return JobProgress.model_validate_json(progress).eta_seconds if progress else None
    except ValidationError:
        return None
