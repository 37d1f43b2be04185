"""The size of the data folder: measured by a process of its own, by one of all processes, read by the others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import pytest

from worker.measuring import measure
from worker.service import Services


def test_every_process_tells_what_one_has_measured(
    open_floor: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = open_floor(), open_floor()
    here.store.put("models/m/weights", b"x" * 1000)
    here.store.put("needed/what/who", b"")
    here.usage._round()
    assert here.usage.bytes is not None
    assert here.usage.bytes["models"] == 1000
    assert {**here.usage.bytes, "other": 0} == {**measure(here.store.root), "other": 0}  # but for the answer's own file

    def nobody() -> None:
        raise AssertionError("measured twice")

    monkeypatch.setattr(there.usage, "refresh", nobody)
    there.usage._round()
    assert there.usage.bytes == here.usage.bytes


def test_what_is_old_is_measured_again(open_floor: Callable[..., Services]) -> None:
    here, there = open_floor(), open_floor()
    here.usage._round()
    here.store.put("jobs/j/job.json", b"x" * 500)
    found = here.store.root / "run" / "usage.json"
    before = time.time() - here.store.measure_every_s
    os.utime(found, (before, before))
    there.usage._round()
    here.usage._round()
    assert there.usage.bytes is not None
    assert there.usage.bytes["jobs"] == 500
    assert here.usage.bytes == there.usage.bytes


def test_while_another_measures_the_last_answer_stands(open_floor: Callable[..., Services]) -> None:
    here, there = open_floor(), open_floor()
    with here.store.lock("usage"):
        there.usage._round()
        assert there.usage.bytes is None  # there is none yet
    here.usage._round()
    with here.store.lock("usage"):
        there.usage._round()
    assert there.usage.bytes == here.usage.bytes


def test_a_folder_that_cannot_be_measured_is_no_error(services: Services, capsys: pytest.CaptureFixture[str]) -> None:
    services.store.root = services.store.root / "gone"
    services.usage.refresh()
    assert services.usage.bytes is None


def test_the_api_leaves_sweeping_to_workers_where_there_are_some(
    open_floor: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, swept = open_floor(), list[float]()
    monkeypatch.setattr(api.retention, "sweep_in_turn", swept.append)
    monkeypatch.setattr("worker.reaper.SWEEP_GRACE_S", -1.0)
    monkeypatch.setattr(
        api.reaper, "_rounds", type("Still", (), {"start": lambda self: None, "stop": lambda self: None})()
    )
    api.reaper.start(leave_sweeping=True)
    api.queue.seen("7-100@elsewhere")
    api.reaper.run_once()
    assert swept == []
    api.queue.gone("7-100@elsewhere")
    api.reaper.run_once()
    assert len(swept) == 1


def test_the_end_of_the_first_round_can_be_waited_for(services: Services) -> None:
    assert not services.reaper.wait_for_round(0)
    services.reaper.start()
    assert services.reaper.wait_for_round(60)
    assert services.redis.exists(services.keys.epoch)
