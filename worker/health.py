"""`python -m worker.health`: exit code 0 while a worker of this machine or container is at its post."""

from __future__ import annotations

import sys
from typing import cast

import redis

from npt_core.errors import NPTError
from worker.identity import alive_here
from worker.keys import Keys
from worker.lease import WORKER_SEEN_MS
from worker.redis_url import RedisAddress
from worker.settings import WorkerSettings


def worker_is_at_its_post(settings: WorkerSettings) -> bool:
    """Whether Redis heard lately of a worker whose process lives here.

    Raises:
        redis.RedisError: Redis does not answer.
    """
    with RedisAddress.parse(settings.redis_address).client() as client:
        seconds, microseconds = cast("tuple[int, int]", client.time())
        since = seconds * 1000 + microseconds // 1000 - WORKER_SEEN_MS
        names = cast("list[str]", client.zrangebyscore(Keys(settings.redis_prefix).workers, since, "+inf"))
    return any(alive_here(name, settings.node) for name in names)


def main() -> int:
    try:
        return 0 if worker_is_at_its_post(WorkerSettings()) else 1
    except (redis.RedisError, NPTError) as error:
        sys.stderr.write(f"{error}\n")
        return 1


if __name__ == "__main__":
    sys.exit(main())
