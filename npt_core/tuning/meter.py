"""One bar over all phases, a measured time left, and not more than about ten reports a second."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from npt_core.tuning.control import Phase, Progress, ProgressSink

MIN_INTERVAL_S = 0.1
FORGET = 0.98


class Meter:
    """Counts units of several kinds of work and times each kind.

    The time left is the sum over kinds of units left times measured seconds a unit; it is None while a kind that lies
    ahead has not been timed, since a guess would be no better than none.

    Args:
        sink: Told the progress; None for nobody.
        clock: Monotonic seconds.
    """

    def __init__(self, sink: ProgressSink | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.sink, self.clock = sink, clock
        self.phase: Phase = "encoding"
        self.stage: str | None = None
        self._expected: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._seconds: dict[str, float] = {}
        self._units: dict[str, float] = {}
        self._mark = clock()
        self._last_report = float("-inf")
        self.phase_seconds: dict[str, float] = {}

    @property
    def step(self) -> int:
        """Units done."""
        return sum(self._done.values())

    @property
    def total_steps(self) -> int:
        """Units in all."""
        return sum(max(self._expected.get(kind, 0), self._done.get(kind, 0)) for kind in self._expected | self._done)

    def expect(self, kind: str, units: int) -> None:
        """Say how many units of a kind there are in all."""
        self._expected[kind] = units

    def expected(self, kind: str) -> int:
        """Return how many units of a kind there are in all, as far as that was said."""
        return self._expected.get(kind, 0)

    def done(self, kind: str) -> int:
        """Return how many units of a kind are done."""
        return self._done.get(kind, 0)

    def guess(self, kind: str, seconds: float) -> None:
        """Give a first timing of one unit; it fades as units are timed."""
        self._seconds[kind], self._units[kind] = seconds, 1.0
        self.restart()

    def restart(self) -> None:
        """Start timing now: what happened since the last `advance` belongs to no unit."""
        now = self.clock()
        self._book(now)
        self._mark = now

    def _book(self, now: float) -> None:
        self.phase_seconds[self.phase] = self.phase_seconds.get(self.phase, 0.0) + now - self._mark

    def enter(self, phase: Phase, stage: str | None = None) -> None:
        """Start a phase and report it."""
        self.restart()
        self.phase, self.stage = phase, stage
        self.report(force=True)

    def skip(self, kind: str, units: int) -> None:
        """Count units that took no work: found in a cache, or done before a resume."""
        self._done[kind] = self._done.get(kind, 0) + units
        self.restart()

    def advance(self, kind: str, units: int = 1) -> None:
        """Count units that were just done and time them."""
        now = self.clock()
        self._seconds[kind] = self._seconds.get(kind, 0.0) * FORGET + (now - self._mark)
        self._units[kind] = self._units.get(kind, 0.0) * FORGET + units
        self._done[kind] = self._done.get(kind, 0) + units
        self._book(now)
        self._mark = now

    @property
    def eta_seconds(self) -> float | None:
        """Seconds left, or None."""
        if not self._expected:
            return None
        left = 0.0
        for kind, expected in self._expected.items():
            remaining = expected - self._done.get(kind, 0)
            if remaining <= 0:
                continue
            if not self._units.get(kind):
                return None
            left += remaining * self._seconds[kind] / self._units[kind]
        return left

    def report(self, *, force: bool = False, **facts: Any) -> None:
        """Tell the sink, unless it was told less than a tenth of a second ago."""
        if self.sink is None:
            return
        now = self.clock()
        if not force and now - self._last_report < MIN_INTERVAL_S:
            return
        self._last_report = now
        eta = self.eta_seconds
        self.sink(
            Progress(
                phase=self.phase,
                stage=self.stage,
                step=self.step,
                total_steps=self.total_steps,
                eta_seconds=None if eta is None else round(eta, 3),
                **facts,
            )
        )
