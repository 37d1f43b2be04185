"""What every store promises, of the folder and of a bucket behind real HTTP alike."""

from __future__ import annotations

import contextlib
import hashlib
import multiprocessing
import os
import sqlite3
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from npt_core.errors import ConfigError
from tests.support.s3_server import S3Server
from worker.errors import NotFoundError, StoreFullError
from worker.measuring import KIND_OF
from worker.settings import WorkerSettings
from worker.store.base import Store, check_key
from worker.store.local import LocalStore
from worker.store.names import Names
from worker.store.opening import open_store
from worker.store.s3 import bucket

Opener = Callable[[], Store]


def store_settings(folder: Path, url: str | None, endpoint: str | None, **more: object) -> WorkerSettings:
    return WorkerSettings(data_dir=folder, store_url=url, s3_endpoint=endpoint, min_free_bytes=0, **more)


@pytest.fixture(params=["folder", "bucket"])
def settings_of(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., WorkerSettings]:
    """Settings that lead to one store; of a bucket, each time from another machine's folder."""
    if request.param == "folder":
        return lambda **more: store_settings(tmp_path / "data", None, None, **more)
    server: S3Server = request.getfixturevalue("s3_server")
    url, count = f"s3://{server.make_bucket()}/some/prefix", iter(range(1000))
    return lambda **more: store_settings(tmp_path / f"machine-{next(count)}", url, server.url, **more)


@pytest.fixture
def another(settings_of: Callable[..., WorkerSettings]) -> Opener:
    """Opens the same store once more, as another process or machine does."""
    return lambda: open_store(settings_of())


@pytest.fixture
def store(another: Opener) -> Store:
    return another()


# --- keys


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


def test_bad_keys_reach_no_store(store: Store) -> None:
    for call in (store.get, store.open, store.fetch, store.exists, store.delete, store.workspace, store.names):
        with pytest.raises(ConfigError):
            call("a/../b")
    with pytest.raises(ConfigError):
        store.put("../b", b"")


# --- writing and reading


def test_what_is_put_can_be_got(store: Store, another: Opener) -> None:
    assert store.put("jobs/one/job.json", b"1")
    assert store.get("jobs/one/job.json") == b"1"
    assert store.put("jobs/one/job.json", b"2")
    for each in (store, another()):
        with each.open("jobs/one/job.json") as file:
            assert file.read() == b"2"
        assert each.names("jobs") == ["one"]
        assert list(each.walk("jobs")) == [("jobs/one/job.json", 1)]
        assert each.digest("jobs/one/job.json") == hashlib.sha256(b"2").hexdigest()
        assert each.fetch("jobs/one/job.json").read_bytes() == b"2"


def test_nothing_can_be_written(store: Store) -> None:
    assert store.put("needed/thing/who", b"")
    assert store.exists("needed/thing/who")
    assert store.get("needed/thing/who") == b""
    assert store.names("needed/thing") == ["who"]


def test_missing_is_an_error_of_ours(store: Store) -> None:
    for call in (store.get, store.open, store.digest, store.touched):
        with pytest.raises(NotFoundError):
            call("jobs/none")
    assert not store.touch("jobs/none.json")
    assert store.names("jobs") == []
    assert store.size("jobs") == 0
    assert list(store.walk("jobs")) == []
    assert not store.delete("jobs")
    assert not store.move("jobs/none", "models/none")
    store.unlink("jobs/none")


def test_an_object_and_a_folder_are_there(store: Store) -> None:
    store.put("jobs/x/attempts/0001.json", b"1")
    store.put("jobs/x/attempts/0001/a", b"2")
    assert store.exists("jobs/x/attempts/0001.json")
    assert store.exists("jobs/x/attempts/0001")
    assert store.exists("jobs/x")
    assert store.exists("jobs/x/attempts/0001/a")
    for key in ("jobs/x/attempts/0002", "jobs/x/attempts/000", "jobs/x/attempts/0001/b", "job", "jobs/x/end.json"):
        assert not store.exists(key)
    assert store.names("jobs/x/attempts") == ["0001", "0001.json"]
    assert store.size("jobs/x/attempts/0001") == 1
    assert store.size("jobs/x") == 2


def test_a_listing_goes_over_many_pages(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "PAGE", 7)
    monkeypatch.setattr(bucket, "DELETED_AT_ONCE", 5)
    for number in range(31):
        store.put(f"needed/all/{number:04d}", b"")
    assert store.names("needed/all") == [f"{number:04d}" for number in range(31)]
    assert len(list(store.walk("needed"))) == 31
    assert Names(store, "needed/all").sorted() == store.names("needed/all")
    assert store.delete("needed/all")
    assert store.names("needed/all") == []


def test_names_that_are_remembered_are_the_present_ones(store: Store, another: Opener) -> None:
    names = Names(store, "models")
    assert list(names.sorted()) == []
    another().put("models/a/model.json", b"{}")
    assert list(names.sorted()) == ["a"]
    another().put("models/b/model.json", b"{}")
    assert list(names.sorted()) == ["a", "b"]


# --- one winner


def test_create_only_has_one_winner(store: Store, another: Opener) -> None:
    won: list[int] = []
    start = threading.Barrier(8)
    stores = [store, another(), another(), another()]

    def race(number: int) -> None:
        start.wait()
        if stores[number % 4].put("jobs/x/end.json", str(number).encode() * 1000, create_only=True):
            won.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert store.get("jobs/x/end.json") == str(won[0]).encode() * 1000


def _race(settings: WorkerSettings, number: int, barrier: object, won: object) -> None:
    store = open_store(settings)
    for turn in range(10):
        barrier.wait(120)  # type: ignore[attr-defined]
        if store.put(f"jobs/x/{turn}.json", str(number).encode(), create_only=True):
            won.put((turn, number))  # type: ignore[attr-defined]


def _count(settings: WorkerSettings, times: int) -> None:
    store = open_store(settings)
    for _ in range(times):
        with store.lock("counter"):
            store.put("jobs/x/count", str(int(store.get("jobs/x/count")) + 1).encode())


def test_create_only_has_one_winner_among_processes(settings_of: Callable[..., WorkerSettings], store: Store) -> None:
    spawn = multiprocessing.get_context("spawn")
    barrier, won = spawn.Barrier(3), spawn.SimpleQueue()
    racers = [spawn.Process(target=_race, args=(settings_of(), number, barrier, won)) for number in range(3)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join(200)
        assert racer.exitcode == 0
    winners = [won.get() for _ in range(10)]
    assert won.empty()
    assert sorted(turn for turn, _ in winners) == list(range(10))
    for turn, number in winners:
        assert store.get(f"jobs/x/{turn}.json") == str(number).encode()


def test_locks_exclude_processes(settings_of: Callable[..., WorkerSettings], store: Store) -> None:
    store.put("jobs/x/count", b"0")
    spawn = multiprocessing.get_context("spawn")
    counters = [spawn.Process(target=_count, args=(settings_of(), 15)) for _ in range(3)]
    for counter in counters:
        counter.start()
    for counter in counters:
        counter.join(200)
        assert counter.exitcode == 0
    assert store.get("jobs/x/count") == b"45"


def test_locks_exclude_threads(store: Store, another: Opener) -> None:
    inside = most = 0
    stores = [store, another()]

    def enter(number: int) -> None:
        nonlocal inside, most
        for _ in range(10):
            with stores[number % 2].lock("datasets"):
                inside += 1
                most = max(most, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=enter, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_lock_can_be_tried(store: Store, another: Opener) -> None:
    other = another()
    with store.lock("sweep"):
        with other.try_lock("sweep") as held:
            assert not held
        with other.try_lock("else") as held:
            assert held
    with other.try_lock("sweep") as held:
        assert held
    with store.try_lock("sweep") as held:
        assert held


def test_a_lock_is_let_go_when_the_block_fails(store: Store, another: Opener) -> None:
    with pytest.raises(KeyError), store.lock("models"):
        raise KeyError
    with another().try_lock("models") as held:
        assert held


# --- files


def test_put_file_takes_the_file_away(store: Store) -> None:
    part = store.part()
    part.write_bytes(b"zip")
    assert store.put_file("archives/x.zip", part)
    assert not part.exists()
    assert store.get("archives/x.zip") == b"zip"
    part.write_bytes(b"other")
    assert not store.put_file("archives/x.zip", part, create_only=True)
    assert not part.exists()
    assert store.get("archives/x.zip") == b"zip"


def test_a_file_that_was_flushed_is_there_when_it_is_put(store: Store, another: Opener) -> None:
    part = store.part()
    part.write_bytes(b"zip")
    store.flush(part, "archives/x.zip")
    assert part.exists()
    assert store.put_file("archives/x.zip", part)
    assert another().get("archives/x.zip") == b"zip"
    later = store.part()
    later.write_bytes(b"new")
    store.flush(later, "archives/y.zip")
    store.delete("archives/y.zip")  # by a sweep that found nobody who needs it
    assert store.put_file("archives/y.zip", later)
    assert store.get("archives/y.zip") == b"new"


def test_a_folder_is_seen_by_all_once_it_is_synced(store: Store, another: Opener) -> None:
    folder = store.workspace("jobs/x/attempts/0001")
    (folder / "results").mkdir(parents=True)
    (folder / "model.json").write_bytes(b"{}")
    (folder / "results" / "rows.csv").write_bytes(b"a,b")
    store.sync("jobs/x/attempts/0001")
    other = another()
    assert other.get("jobs/x/attempts/0001/results/rows.csv") == b"a,b"
    fetched = other.fetch("jobs/x/attempts/0001")
    assert {path.name for path in fetched.iterdir()} == {"model.json", "results"}
    assert (fetched / "results" / "rows.csv").read_bytes() == b"a,b"
    store.abandon("jobs/x/attempts/0001")
    assert not folder.exists()
    assert not other.exists("jobs/x/attempts/0001")


def test_what_is_abandoned_before_it_is_synced_was_never_there(store: Store) -> None:
    folder = store.workspace("jobs/x/attempts/0001")
    folder.mkdir(parents=True)
    (folder / "model.json").write_bytes(b"{}")
    store.abandon("jobs/x/attempts/0001")
    store.abandon("jobs/x/attempts/0002")
    assert not folder.exists()
    assert not store.exists("jobs/x/attempts/0001")


def test_move_is_whole_and_only_once(store: Store, another: Opener) -> None:
    for name in ("a", "b/c", "model.json"):
        store.put(f"jobs/x/attempts/0001/{name}", b"1")
        store.put(f"jobs/x/attempts/0002/{name}", b"2")
    assert another().move("jobs/x/attempts/0001", "models/m", last="model.json")
    assert not store.move("jobs/x/attempts/0001", "models/m", last="model.json")
    assert not store.move("jobs/x/attempts/0002", "models/m", last="model.json")
    for name in ("a", "b/c", "model.json"):
        assert store.get(f"models/m/{name}") == b"1"
        assert store.exists(f"jobs/x/attempts/0002/{name}")
    assert not store.exists("jobs/x/attempts/0001")
    assert store.move("jobs/x/attempts/0002", "models/n")
    assert store.get("models/n/b/c") == b"2"


def test_a_file_is_changed_in_place(store: Store, another: Opener) -> None:
    """SQLite, as feedback uses it: from two machines in turn, with one that only reads."""
    stores, key = [store, another()], "feedback/m/items.sqlite3"
    for number in range(6):
        with stores[number % 2].edit(key) as path, contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("CREATE TABLE IF NOT EXISTS item (number INTEGER)")
            connection.execute("INSERT INTO item VALUES (?)", (number,))
        with another().edit(key, write=False) as path, contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM item").fetchone() == (number + 1,)
    assert store.exists(key)


def test_an_edit_that_fails_is_not_kept(store: Store, another: Opener) -> None:
    key = "feedback/m/items.sqlite3"
    with store.edit(key) as path, contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE item (number INTEGER)")

    def fail() -> None:
        with store.edit(key) as path, contextlib.closing(sqlite3.connect(path)) as connection, connection:
            connection.execute("INSERT INTO item VALUES (1)")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        fail()
    for each in (store, another()):
        with each.edit(key, write=False) as path, contextlib.closing(sqlite3.connect(path)) as connection:
            assert connection.execute("SELECT count(*) FROM item").fetchone() == (0,)


# --- removing, times, room


def test_delete_leaves_nothing_and_no_more(store: Store, another: Opener) -> None:
    store.put("models/m/model.json", b"1")
    store.put("models/m/tensors", b"1")
    store.put("models/m2/model.json", b"1")
    assert another().delete("models/m")
    assert not store.delete("models/m")
    assert store.names("models") == ["m2"]
    store.unlink("models/m2/model.json")
    assert not store.exists("models/m2/model.json")
    store.prune("models/m2")
    assert store.names("models") == []


def test_what_is_touched_is_younger(store: Store) -> None:
    store.put("datasets/d/dataset.json", b"record")
    before = store.touched("datasets/d/dataset.json")
    assert abs(before - datetime.now(UTC)) < timedelta(minutes=1)
    deadline = time.monotonic() + 60
    while store.touched("datasets/d/dataset.json") <= before:  # clocks of stores tick once a second
        assert store.touch("datasets/d/dataset.json")
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert store.get("datasets/d/dataset.json") == b"record"
    assert store.touched("datasets/d/dataset.json") - before < timedelta(minutes=1)
    assert store.touched("datasets/d") >= before


def test_room_is_kept(settings_of: Callable[..., WorkerSettings]) -> None:
    with pytest.raises(StoreFullError, match="free"):
        open_store(settings_of().model_copy(update={"min_free_bytes": 1 << 60})).ensure_free(1)
    open_store(settings_of()).ensure_free(1)


def test_what_may_be_held_is_bounded(settings_of: Callable[..., WorkerSettings]) -> None:
    store = open_store(settings_of(max_store_bytes=500_000))
    store.limit.ensure()  # what was there before is measured once
    part = store.part()
    part.write_bytes(b"a" * 300_000)
    store.claim(part)
    assert store.put_file("archives/a.zip", part)
    with pytest.raises(StoreFullError, match="500,000"):
        store.put("archives/b.zip", b"b" * 300_000)
    assert not store.exists("archives/b.zip")
    assert store.put("jobs/x/end.json", b"records always fit")
    assert store.delete("archives/a.zip")
    assert store.put("archives/b.zip", b"b" * 300_000)
    assert store.limit.recounted(lambda: 0) == 0


def test_it_is_measured_by_kind(store: Store) -> None:
    for folder in ("models", "archives", "jobs", "feedback"):
        store.put(f"{folder}/x/y", b"12345")
    store.put("needed/x/y", b"")
    found = store.measure()
    assert {kind: found[kind] for kind in ("models", "datasets", "jobs", "feedback")} == dict.fromkeys(
        ("models", "datasets", "jobs", "feedback"), 5
    )
    assert set(KIND_OF.values()) <= set(found)


def test_sweep_takes_only_what_is_old(store: Store) -> None:
    old, fresh = store.part(), store.part()
    old.write_bytes(b"")
    fresh.write_bytes(b"")
    store.put("jobs/x/job.json", b"1")
    os.utime(old, (time.time() - 100, time.time() - 100))
    assert store.sweep(50) == 1
    assert fresh.exists()
    assert not old.exists()
    assert store.get("jobs/x/job.json") == b"1"


def test_it_says_that_it_can_be_written_to(store: Store) -> None:
    assert store.writable()


def test_the_folder_needs_no_package_of_the_bucket(tmp_path: Path) -> None:
    """A process whose store is a folder loads nothing of the client library."""
    assert isinstance(open_store(store_settings(tmp_path, None, None)), LocalStore)
    code = "import sys, worker.service; sys.exit(any(name.startswith('botocore') for name in sys.modules))"
    assert os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", code) == 0
