"""A thread of rounds: begins at once, ends when told, can begin again."""

from __future__ import annotations

import threading

from worker.rounds import Rounds


def test_rounds_begin_at_once_and_end_when_told() -> None:
    rounds_made = threading.Semaphore(0)
    rounds = Rounds("counting", rounds_made.release, 0.01)
    for _ in range(2):  # it can begin again
        rounds.start()
        rounds.start()  # the same thread
        assert sum(thread.name == "counting" for thread in threading.enumerate()) == 1
        for _ in range(3):
            assert rounds_made.acquire(timeout=30)
        rounds.stop()
        assert not any(thread.name == "counting" for thread in threading.enumerate())
