"""A Redis that hangs costs one wait, not one a record."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import redis

T = TypeVar("T")

REST_S = 5.0


class Patience:
    """Asks Redis for what can be done without, and after a question that timed out asks nothing for a while.

    A Redis that refuses at once is asked every time: that costs nothing.
    """

    def __init__(self) -> None:
        self._rests_until = 0.0

    def ask(self, question: Callable[[], T], otherwise: T) -> T:
        """The answer, or `otherwise` where there is none."""
        if time.monotonic() < self._rests_until:
            return otherwise
        try:
            return question()
        except redis.TimeoutError:
            self._rests_until = time.monotonic() + REST_S
        except redis.RedisError:
            pass
        return otherwise
