"""What is true of the folder alone: how it writes, and what a disk can do to it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path

import pytest

from worker.errors import StoreFullError
from worker.store import local
from worker.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


def test_no_temporary_file_is_left(store: LocalStore) -> None:
    store.put("jobs/x/end.json", b"1", create_only=True)
    assert not store.put("jobs/x/end.json", b"2", create_only=True)
    assert os.listdir(store.path("jobs/x")) == ["end.json"]


def test_create_only_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(local.os, "link", no_link)
    assert store.put("a/b", b"1", create_only=True)
    assert not store.put("a/b", b"2", create_only=True)
    assert store.get("a/b") == b"1"


def test_a_full_disk_is_said_and_leaves_nothing(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(local.os, "fsync", full)
    with pytest.raises(StoreFullError):
        store.put("jobs/x/job.json", b"1")
    monkeypatch.undo()
    assert store.names("jobs/x") == []
    assert not list(store.root.rglob(".tmp-*"))
    assert store.put("jobs/x/job.json", b"1")


def test_delete_leaves_nothing(store: LocalStore) -> None:
    store.put("models/m/a", b"1")
    assert store.delete("models/m")
    assert store.names("models") == []
    assert list(store.root.glob("trash/*")) == []


def test_sweep_takes_only_what_is_old(store: LocalStore) -> None:
    old, fresh = store.part(), store.part()
    old.write_bytes(b"")
    fresh.write_bytes(b"")
    store.put("jobs/x/job.json", b"1")
    litter = store.path("jobs/x") / ".tmp-1"
    litter.write_bytes(b"")
    for path in (old, litter):
        os.utime(path, (time.time() - 100, time.time() - 100))
    assert store.sweep(50) == 2
    assert fresh.exists()
    assert not old.exists()
    assert not litter.exists()
    assert store.get("jobs/x/job.json") == b"1"
