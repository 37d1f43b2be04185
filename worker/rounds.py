"""Something that is done again and again beside everything else."""

from __future__ import annotations

import threading
from collections.abc import Callable

STOP_WAIT_S = 10.0


class Rounds:
    """Calls a function every so often, in a daemon thread of its own, until told to stop.

    Args:
        name: What the thread is called.
        call: One round. Whatever it raises ends the thread, so it deals with its own trouble.
        every_s: Pause between two rounds.
    """

    def __init__(self, name: str, call: Callable[[], None], every_s: float) -> None:
        self._name, self._call, self._every_s = name, call, every_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin, with a round at once; nothing where it has begun before."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; waits for the round it is in."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join(timeout=STOP_WAIT_S)
            self._thread = None

    def _loop(self) -> None:
        while True:
            self._call()
            if self._stop.wait(self._every_s):
                return
