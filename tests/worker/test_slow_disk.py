"""A disk that takes long over a large zip holds up the sender of the zip, and no job on what is stored already."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from npt_core.data.edit import Edit
from tests.support.zips import classes, picture, write_zip
from worker.service import Services
from worker.store import local

Keep = Callable[[Services, str, Path], object]


def add(services: Services, stored: str, part: Path) -> object:
    return services.datasets.add(part)


def edit(services: Services, stored: str, part: Path) -> object:
    return services.datasets.edit(stored, Edit(), part)


def job(services: Services, stored: str, part: Path) -> object:
    return services.start_job("sleep", {}, archive=part)


@pytest.mark.parametrize("keep", [add, edit, job])
def test_a_job_starts_while_a_zip_is_being_kept(
    services: Services, monkeypatch: pytest.MonkeyPatch, keep: Keep
) -> None:
    stored, _ = services.datasets.add(write_zip(services.store.part(), classes("cat", "dog")))
    part = write_zip(
        services.store.part(), {f"{label}/{n}.png": picture(n) for label in ("owl", "cow") for n in (8, 9)}
    )
    inode, fsync = part.stat().st_ino, os.fsync
    slow, go_on = threading.Event(), threading.Event()

    def slowly(descriptor: int) -> None:
        if os.fstat(descriptor).st_ino == inode and not slow.is_set():
            slow.set()
            go_on.wait(30)
        fsync(descriptor)

    monkeypatch.setattr(local.os, "fsync", slowly)
    with ThreadPoolExecutor(2) as pool:
        kept = pool.submit(keep, services, stored.id, part)
        assert slow.wait(20)
        started = pool.submit(services.start_job, "sleep", {}, dataset_id=stored.id)
        done, _ = wait([started], timeout=5)
        swept = services.retention.sweep() if done else []  # it needs the lock too
        go_on.set()
        kept.result(20)
    assert done == {started}
    assert swept == []  # what is on its way into the store is no waste
    assert not part.exists()
