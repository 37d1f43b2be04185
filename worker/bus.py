"""Redis as this floor uses it: the disposable half of its state, handed around as one thing."""

from __future__ import annotations

from dataclasses import dataclass

import redis

from worker.keys import Keys
from worker.lease import LeaseScripts
from worker.redis_memory import RedisMemory


@dataclass(frozen=True)
class Bus:
    """What everybody who keeps something in Redis needs.

    Attributes:
        redis: The connection.
        keys: Its names.
        leases: The scripts that change a job's state.
        memory: Whether it holds all that the store says.
    """

    redis: redis.Redis
    keys: Keys
    leases: LeaseScripts
    memory: RedisMemory
