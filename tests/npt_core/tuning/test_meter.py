"""One bar, a measured time left, not too many reports."""

from __future__ import annotations

import pytest

from npt_core.tuning.control import Progress
from npt_core.tuning.meter import Meter


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_time_left_is_measured_for_each_kind_of_work(clock: Clock) -> None:
    meter = Meter(None, clock)
    assert meter.eta_seconds is None
    meter.expect("encoding", 10)
    meter.expect("tuning", 100)
    for _ in range(5):
        clock.now += 2.0
        meter.advance("encoding")
    assert meter.eta_seconds is None  # nobody has seen a tuning step yet
    meter.guess("tuning", 0.5)
    assert meter.eta_seconds == pytest.approx(5 * 2 + 100 * 0.5)
    clock.now += 10
    meter.advance("encoding", 5)
    assert meter.eta_seconds == pytest.approx(50)
    for _ in range(99):
        clock.now += 0.1
        meter.advance("tuning")
    assert meter.eta_seconds == pytest.approx(0.1, rel=0.2)  # the guess has faded
    meter.advance("tuning")
    assert meter.eta_seconds == 0
    assert meter.step == meter.total_steps == 110


def test_work_found_in_a_cache_takes_no_time(clock: Clock) -> None:
    meter = Meter(None, clock)
    meter.expect("encoding", 100)
    meter.skip("encoding", 98)
    clock.now += 3
    meter.advance("encoding")
    assert meter.eta_seconds == pytest.approx(3)


def test_reports_are_at_most_ten_a_second_unless_forced(clock: Clock) -> None:
    seen: list[Progress] = []
    meter = Meter(seen.append, clock)
    meter.expect("tuning", 1000)
    for _ in range(1000):
        clock.now += 0.01
        meter.advance("tuning")
        meter.report(loss=1.0)
    assert 90 <= len(seen) <= 101
    meter.report(force=True)
    meter.report(force=True)
    assert 92 <= len(seen) <= 103


def test_seconds_are_booked_to_phases(clock: Clock) -> None:
    meter = Meter(None, clock)
    meter.enter("encoding")
    clock.now += 4
    meter.advance("encoding")
    clock.now += 1
    meter.enter("tuning")
    clock.now += 2
    meter.restart()
    assert meter.phase_seconds["encoding"] == pytest.approx(5)
    assert meter.phase_seconds["tuning"] == pytest.approx(2)
