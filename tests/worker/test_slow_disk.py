"""A disk that takes long holds up whoever writes, and no one else; a worker that waits for it is not taken for dead."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest

from npt_core.data.edit import Edit
from tests.support.in_process import runner
from tests.support.worker_process import wait_until
from tests.support.zips import classes, picture, write_zip
from worker.records import Attempt, JobStatus
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


def test_a_lease_outlasts_the_writing_down_of_its_claim(
    open_floor: Callable[..., Services], monkeypatch: pytest.MonkeyPatch
) -> None:
    services = open_floor(lease_ttl_s=0.8)
    leases, files = services.leases, services.jobs.files
    put, held = files.put_attempt, []

    def slowly(job_id: str, attempt: Attempt) -> bool:
        wait_until("two leases to be over", lambda: leases.now_ms() - claimed > 1600)
        held.append((leases.expired(), [each.job_id for each in leases.held()]))
        return put(job_id, attempt)

    monkeypatch.setattr(files, "put_attempt", slowly)
    job, _ = services.start_job("sleep", {"steps": 1, "pause": 0})
    claimed = leases.now_ms()
    runner(services).run_next()
    assert held == [([], [job.id])]
    assert services.jobs.get(job.id).status is JobStatus.SUCCEEDED
