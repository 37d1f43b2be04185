from __future__ import annotations

import errno
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.errors import ConfigError
from worker.errors import NotFoundError, StoreFullError
from worker.store import local
from worker.store.base import check_key
from worker.store.local import LocalStore


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


def test_what_is_put_can_be_got(store: LocalStore) -> None:
    assert store.put("jobs/one/job.json", b"1")
    assert store.get("jobs/one/job.json") == b"1"
    assert store.put("jobs/one/job.json", b"2")
    with store.open("jobs/one/job.json") as file:
        assert file.read() == b"2"
    assert store.names("jobs") == ["one"]
    assert list(store.walk("jobs")) == [("jobs/one/job.json", 1)]


def test_missing_is_an_error_of_ours(store: LocalStore) -> None:
    with pytest.raises(NotFoundError):
        store.get("jobs/none")
    with pytest.raises(NotFoundError):
        store.open("jobs/none")
    assert store.names("jobs") == []
    assert not store.delete("jobs")
    assert not store.move("jobs/none", "models/none")


@given(st.text(max_size=40))
def test_a_key_never_leaves_the_root(text: str) -> None:
    try:
        key = check_key(text)
    except ConfigError:
        return
    root = Path("/root/of/store")
    path = (root / key).as_posix()
    assert os.path.normpath(path) == path
    assert path.startswith("/root/of/store/")
    assert "\0" not in path


@pytest.mark.parametrize("key", ["", "/a", "a/../b", "a//b", "a/.hidden", "..", "a\\b", "a/b\n", "ä", "a" * 301])
def test_bad_keys(key: str) -> None:
    with pytest.raises(ConfigError):
        check_key(key)


def test_create_only_has_one_winner(store: LocalStore) -> None:
    won: list[int] = []
    start = threading.Barrier(8)

    def race(number: int) -> None:
        start.wait()
        if store.put("jobs/x/end.json", str(number).encode() * 1000, create_only=True):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("jobs/x/end.json") == str(won[0]).encode() * 1000
    assert os.listdir(store.path("jobs/x")) == ["end.json"]  # no temporary file left


def test_create_only_without_hard_links(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_link(*_: object) -> None:
        raise OSError(errno.EPERM, "no links here")

    monkeypatch.setattr(local.os, "link", no_link)
    assert store.put("a/b", b"1", create_only=True)
    assert not store.put("a/b", b"2", create_only=True)
    assert store.get("a/b") == b"1"


def test_put_file_takes_the_file_away(store: LocalStore) -> None:
    part = store.part()
    part.write_bytes(b"zip")
    assert store.put_file("datasets/x/data.zip", part)
    assert not part.exists()
    assert store.get("datasets/x/data.zip") == b"zip"
    part.write_bytes(b"other")
    assert not store.put_file("datasets/x/data.zip", part, create_only=True)
    assert not part.exists()
    assert store.get("datasets/x/data.zip") == b"zip"


def test_move_is_whole_and_only_once(store: LocalStore) -> None:
    store.put("jobs/x/attempts/0001/a", b"1")
    store.put("jobs/x/attempts/0002/a", b"2")
    assert store.move("jobs/x/attempts/0001", "models/m")
    assert not store.move("jobs/x/attempts/0002", "models/m")
    assert store.get("models/m/a") == b"1"
    assert store.exists("jobs/x/attempts/0002/a")


def test_delete_leaves_nothing(store: LocalStore) -> None:
    store.put("models/m/a", b"1")
    assert store.delete("models/m")
    assert store.names("models") == []
    assert list(store.root.glob("trash/*")) == []


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


def test_room_is_kept(tmp_path: Path) -> None:
    store = LocalStore(tmp_path, min_free_bytes=1 << 60)
    with pytest.raises(StoreFullError, match="free"):
        store.ensure_free(1)
    LocalStore(tmp_path).ensure_free(1)


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


def test_locks_exclude_threads(store: LocalStore) -> None:
    inside = 0
    most = 0

    def enter() -> None:
        nonlocal inside, most
        for _ in range(20):
            with store.lock("datasets"):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
