"""The feature cache of a folder under several processes: nothing wrong comes out, nothing grows."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import signal
import sqlite3
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npt_core.tuning import folder_cache
from npt_core.tuning.folder_cache import FolderFeatureCache
from tests.support.service import wait_for

SPAWN = multiprocessing.get_context("spawn")
MIB = 1 << 20


def content(key: str) -> Any:
    """What belongs to a key: whoever reads it can tell."""
    rng = np.random.default_rng(int(key))
    return rng.normal(size=int(rng.integers(1, 600))).astype(np.float32)


def put(cache: FolderFeatureCache, *numbers: int) -> None:
    cache.put_many({str(number): content(str(number)) for number in numbers})


def known(cache: FolderFeatureCache, *numbers: int) -> list[int]:
    return sorted(int(key) for key in cache.get_many([str(number) for number in numbers]))


def assert_sound(cache: FolderFeatureCache, keys: range) -> dict[str, Any]:
    """Every entry is what was put, the counted bytes are those that are there, and SQLite finds nothing wrong."""
    found = cache.get_many([str(key) for key in keys])
    for key, value in found.items():
        assert np.array_equal(value, content(key))
    with sqlite3.connect(cache.file) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        counted, there = connection.execute("SELECT (SELECT size FROM total), SUM(size) FROM feature").fetchone()
    connection.close()
    assert counted == there
    assert counted == sum(value.nbytes for value in found.values())
    return found


# --- bounded on disk, least recently used first ----------------------------------------------------------------------


@pytest.mark.parametrize("width", [16, 192, 512, 768], ids=lambda width: f"{width} numbers each")
def test_the_file_stays_within_its_bytes_whatever_the_features_width(tmp_path: Path, width: int) -> None:
    cache = FolderFeatureCache(tmp_path, 4 * MIB)
    feature = np.ones(width, dtype=np.float32)
    count = 3 * 4 * MIB // feature.nbytes
    for start in range(0, count, 2000):
        cache.put_many({f"{number:064d}": feature for number in range(start, min(count, start + 2000))})
    assert cache.nbytes <= 4 * MIB
    write = 2000 * (feature.nbytes + 512)  # the last one, before it was thinned out
    assert cache.file.stat().st_size <= 5 * MIB + write
    newest = f"{count - 1:064d}"
    assert newest in cache.get_many([newest])


def test_a_feature_of_a_usual_width_takes_little_more_than_its_size(tmp_path: Path) -> None:
    cache = FolderFeatureCache(tmp_path)
    cache.put_many({f"{number:064d}": np.ones(512, dtype=np.float32) for number in range(4000)})
    assert cache.file.stat().st_size < 1.35 * cache.nbytes + MIB


def test_what_was_read_last_goes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("npt_core.tuning.folder_cache.time.time", lambda: now[0])
    sizes = [content(str(number)).nbytes for number in range(6)]
    cache = FolderFeatureCache(tmp_path, sum(sizes))
    for number in range(6):
        put(cache, number)
        now[0] += 0.25  # within one second, too
    now[0] += 61
    for number in (3, 0, 5):
        assert known(cache, number) == [number]
        now[0] += 1
    gone: list[int] = []
    for fresh in range(100, 120):  # one after the other until all of the first six are gone
        put(cache, fresh)
        now[0] += 0.25
        with sqlite3.connect(cache.file) as connection:  # looking must not count as use
            left = {int(key) for (key,) in connection.execute("SELECT key FROM feature")}
        connection.close()
        gone += [number for number in (1, 2, 4, 3, 0, 5) if number not in left and number not in gone]
    assert gone[:6] == [1, 2, 4, 3, 0, 5]


# --- never anything else than what was put ---------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["data", "dtype", "shape"])
def test_a_changed_entry_is_a_miss(tmp_path: Path, column: str) -> None:
    cache = FolderFeatureCache(tmp_path)
    cache.put_many({"a": np.arange(6, dtype=np.float32), "b": np.arange(6, dtype=np.float32)})
    other = {"data": bytes(24), "dtype": "<i4", "shape": "2,3"}[column]
    with sqlite3.connect(cache.file) as connection:
        connection.execute(f"UPDATE feature SET {column} = ? WHERE key = 'a'", (other,))
    connection.close()
    assert list(cache.get_many(["a", "b"])) == ["b"]


def test_a_cache_of_before_is_started_anew(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "features.sqlite3") as connection:
        connection.execute("CREATE TABLE feature (key TEXT PRIMARY KEY, data BLOB)")
        connection.execute("INSERT INTO feature VALUES ('1', x'00')")
    connection.close()
    cache = FolderFeatureCache(tmp_path)
    assert known(cache, 1) == []
    put(cache, 1)
    assert known(cache, 1) == [1]


# --- several processes -----------------------------------------------------------------------------------------------


def _dies_writing(folder: str) -> None:
    cache = FolderFeatureCache(folder)
    cache._evict = lambda connection: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[method-assign]
    put(cache, *range(100, 200))


def test_a_process_that_dies_in_the_middle_of_a_write_leaves_what_was_there(tmp_path: Path) -> None:
    cache = FolderFeatureCache(tmp_path)
    put(cache, *range(50))
    process = SPAWN.Process(target=_dies_writing, args=(str(tmp_path),))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert set(assert_sound(cache, range(200))) == {str(number) for number in range(50)}
    put(cache, 150)
    assert known(cache, 150) == [150]


def _busy(folder: str, seed: int, rounds: int, max_bytes: int) -> None:
    """Read and write what many want at once, far more than fits."""
    rng = random.Random(seed)
    cache = FolderFeatureCache(folder, max_bytes)
    found_any = False
    for _ in range(rounds):
        keys = [str(rng.randrange(400)) for _ in range(40)]
        found = cache.get_many(keys)
        found_any = found_any or bool(found)
        for key, value in found.items():
            assert np.array_equal(value, content(key)), key
        missing = [int(key) for key in keys if key not in found]
        put(cache, *missing)
    assert found_any


def test_processes_that_read_write_and_thin_out_at_once_see_nothing_wrong(tmp_path: Path) -> None:
    max_bytes = 150_000  # a third of what is put
    workers = [SPAWN.Process(target=_busy, args=(str(tmp_path), seed, 60, max_bytes)) for seed in range(3)]
    victim = SPAWN.Process(target=_busy, args=(str(tmp_path), 99, 10**9, max_bytes))
    for worker in (*workers, victim):
        worker.start()
    cache = FolderFeatureCache(tmp_path, max_bytes)
    wait_for("something to be written", lambda: cache.nbytes > 0)
    victim.kill()  # wherever it is
    for worker in (*workers, victim):
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert victim.exitcode == -signal.SIGKILL
    assert assert_sound(cache, range(400))
    assert 0 < cache.nbytes <= max_bytes


def _breaks_it(folder: str, rounds: int) -> None:
    cache = FolderFeatureCache(folder)
    for number in range(rounds):
        put(cache, number)
        assert all(np.array_equal(value, content(key)) for key, value in cache.get_many(list("0123456789")).items())
        if number % 5 == 4:
            with (
                contextlib.suppress(FileNotFoundError),
                cache.file.open("r+b") as file,
            ):  # the other may have removed it
                file.write(b"broken" * 100)


def test_a_file_that_breaks_under_two_processes_is_started_anew_and_works(tmp_path: Path) -> None:
    workers = [SPAWN.Process(target=_breaks_it, args=(str(tmp_path), 40)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(90)
    assert [worker.exitcode for worker in workers] == [0, 0]
    cache = FolderFeatureCache(tmp_path)
    put(cache, 1000)  # the first after a break may be lost
    put(cache, 1001)
    assert known(cache, 1001) == [1001]


def test_a_locked_file_is_a_miss_and_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_cache, "_WAIT_S", 0.05)
    cache = FolderFeatureCache(tmp_path)
    put(cache, 1, 2)
    inode = cache.file.stat().st_ino
    holder = sqlite3.connect(cache.file, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    other = FolderFeatureCache(tmp_path)
    assert known(other, 1, 2) == [1, 2]  # reading waits for nobody's write
    put(other, 3)  # given up
    holder.execute("ROLLBACK")
    holder.execute("PRAGMA locking_mode = EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("DELETE FROM feature WHERE key = '2'")
    late = FolderFeatureCache(tmp_path)
    put(late, 4)
    holder.execute("COMMIT")
    holder.close()
    assert cache.file.stat().st_ino == inode
    assert known(late, 1, 2, 3, 4) == [1]


def test_who_comes_late_does_not_remove_what_another_has_started_anew(tmp_path: Path) -> None:
    cache = FolderFeatureCache(tmp_path)
    broken = cache.file.stat().st_ino
    keep = cache.file.open("rb")  # so that the number is not given to the next file
    cache._start_anew(broken)
    assert not cache.file.exists()
    put(cache, 1)
    cache._start_anew(broken)
    assert known(cache, 1) == [1]
    keep.close()


def _holds(folder: str, seconds: float) -> None:
    with FolderFeatureCache(folder)._using():
        Path(folder, "held").touch()
        time.sleep(seconds)
        Path(folder, "let go").touch()


def test_a_broken_file_is_not_removed_while_another_process_has_it_open(tmp_path: Path) -> None:
    cache = FolderFeatureCache(tmp_path)
    process = SPAWN.Process(target=_holds, args=(str(tmp_path), 1.0))
    process.start()
    wait_for("the other process to open it", (tmp_path / "held").exists)
    cache._start_anew(cache.file.stat().st_ino)
    assert (tmp_path / "let go").exists()
    process.join(30)
