"""Whether Redis holds all that the store says, so that a listing may ask it instead of looking into every folder.

A reconciliation sets the epoch when it has told Redis everything; a Redis that lost its memory has none. A change that
Redis was not told of, because it did not answer, leaves a mark in the data folder, which every process sees and the
next reconciliation takes away.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import redis

from worker.keys import Keys


class RedisMemory:
    """What Redis remembers of one store, as every process of that store sees it.

    Args:
        client: The Redis.
        keys: Its names.
        mark: A file; where it lies, Redis lacks something.
    """

    def __init__(self, client: redis.Redis, keys: Keys, mark: Path) -> None:
        self._redis, self._keys, self._mark = client, keys, mark

    def whole(self) -> bool:
        """Whether what Redis does not know is not there.

        Raises:
            redis.RedisError: Redis does not answer.
        """
        return not self.doubted and bool(self._redis.exists(self._keys.epoch))

    @property
    def doubted(self) -> bool:
        """Whether Redis missed a change."""
        return self._mark.exists()

    def doubt(self) -> None:
        """Redis did not answer, and may have missed a change."""
        with contextlib.suppress(OSError):  # a full volume takes no changes either that could be missed
            self._mark.parent.mkdir(parents=True, exist_ok=True)
            self._mark.touch()

    def doubted_at(self) -> int | None:
        """When it was last doubted; None where it is not. For `trust`."""
        try:
            return os.stat(self._mark).st_mtime_ns
        except FileNotFoundError:
            return None

    def trust(self, doubted_at: int | None) -> None:
        """Everything was told that was there at that time; a later doubt stays."""
        if doubted_at is not None and self.doubted_at() == doubted_at:
            self._mark.unlink(missing_ok=True)
