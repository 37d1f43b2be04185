"""A start reads the store back before it imports what keeps the interpreter busy; the collector sees neither twice."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.backbones import Backbones
from app.collector import leave_what_is_here
from app.metrics import Metrics
from app.settings import AppSettings
from npt_core.errors import BackboneUnavailableError


@pytest.fixture
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.me = self


@pytest.mark.usefixtures("thawed")
def test_what_came_before_is_left_alone_and_what_comes_after_is_collected() -> None:
    leave_what_is_here()
    assert gc.get_freeze_count() > 10_000
    assert len(gc.get_objects()) < 10_000
    ring = weakref.ref(Ring())
    gc.collect()
    assert ring() is None


def test_the_first_backbone_waits_for_what_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, restored = threading.Event(), threading.Event()

    def load(*_: object) -> None:
        asked.set()
        assert restored.is_set()
        raise BackboneUnavailableError("no weights here")

    async def start() -> bool:
        backbones = Backbones(AppSettings(data_dir=tmp_path, backbone="demo"), Metrics(), lambda name: None)
        monkeypatch.setattr(backbones, "_load", load)
        task = backbones.preload(after=lambda: restored.wait(60))
        await asyncio.sleep(0)
        assert backbones.preloading
        early = asked.is_set()
        restored.set()
        await asyncio.to_thread(asked.wait, 60)
        while backbones.preloading:
            await asyncio.sleep(0.01)
        assert backbones.lacks_first
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return early

    assert asyncio.run(start()) is False
