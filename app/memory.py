"""Memory for request bodies, bounded over all requests together."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from npt_core.errors import OverloadedError

RETRY_AFTER_S = 2.0


class Room:
    """Bytes that all requests may hold together; belongs to one event loop.

    Args:
        limit: Most bytes.
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0

    @contextmanager
    def lease(self) -> Iterator[Lease]:
        """What one request holds, given back when the block ends."""
        lease = Lease(self)
        try:
            yield lease
        finally:
            self.held -= lease.held


class Lease:
    """The bytes of one request."""

    def __init__(self, room: Room) -> None:
        self._room, self.held = room, 0

    def take(self, size: int) -> None:
        """Hold more.

        Raises:
            OverloadedError: The others hold too much.
        """
        if self._room.held + size > self._room.limit:
            raise OverloadedError(
                f"The server is receiving as many images as it has memory for; try again in {RETRY_AFTER_S:.0f} s.",
                RETRY_AFTER_S,
            )
        self._room.held += size
        self.held += size
