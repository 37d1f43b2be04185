"""Feature caches: bit-exact, bounded, shared by processes, never a failure."""

from __future__ import annotations

import multiprocessing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from npt_core.tuning.cache import MemoryFeatureCache
from npt_core.tuning.folder_cache import FolderFeatureCache


def array(seed: int, size: int = 8) -> Any:
    return np.random.default_rng(seed).normal(size=size).astype(np.float32)


@pytest.fixture(params=["memory", "folder"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return MemoryFeatureCache(1000) if request.param == "memory" else FolderFeatureCache(tmp_path / "c", 1000)


def test_what_goes_in_comes_out(cache: Any) -> None:
    items = {"a": array(1), "b": array(2).reshape(2, 4), "c": np.array(3.0)}
    cache.put_many(items)
    found = cache.get_many(["a", "b", "c", "d"])
    assert found.keys() == items.keys()
    for key in items:
        assert found[key].dtype == items[key].dtype
        assert np.array_equal(found[key], items[key])


def test_it_stays_within_its_bytes_and_drops_the_oldest(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("npt_core.tuning.folder_cache.time.time", lambda: now[0])
    for number in range(100):
        now[0] += 1
        cache.put_many({f"k{number:03d}": array(number)})
    assert cache.nbytes <= 1000
    kept = cache.get_many([f"k{number:03d}" for number in range(100)])
    assert sorted(kept) == [f"k{number:03d}" for number in range(100 - len(kept), 100)]
    assert len(kept) == 1000 // 32


def test_reading_keeps_an_entry_alive(cache: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("npt_core.tuning.folder_cache.time.time", lambda: now[0])
    for number in range(31):
        cache.put_many({f"k{number:03d}": array(number)})
        now[0] += 10_000
    cache.get_many(["k000"])
    now[0] += 10_000
    cache.put_many({"new": array(99)})
    assert "k000" in cache.get_many(["k000"])
    assert "k001" not in cache.get_many(["k001"])


def test_replacing_counts_once(cache: Any) -> None:
    for seed in range(5):
        cache.put_many({"a": array(seed)})
    assert cache.nbytes == 32
    assert np.array_equal(cache.get_many(["a"])["a"], array(4))


def test_more_keys_than_one_statement_takes(tmp_path: Path) -> None:
    cache = FolderFeatureCache(tmp_path)
    cache.put_many({str(number): array(number, 2) for number in range(1700)})
    assert len(cache.get_many([str(number) for number in range(1700)])) == 1700


def test_a_second_object_sees_it(tmp_path: Path) -> None:
    FolderFeatureCache(tmp_path).put_many({"a": array(1)})
    assert np.array_equal(FolderFeatureCache(tmp_path).get_many(["a"])["a"], array(1))


def _writer(path: str, start: int) -> None:
    cache = FolderFeatureCache(path)
    for number in range(start, start + 60):
        cache.put_many({f"k{number}": array(number)})
        cache.get_many([f"k{n}" for n in range(0, 120, 7)])


def test_two_processes_share_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_writer, args=(str(tmp_path), start)) for start in (0, 60)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    found = FolderFeatureCache(tmp_path).get_many([f"k{number}" for number in range(120)])
    assert len(found) == 120
    assert all(np.array_equal(found[f"k{number}"], array(number)) for number in range(120))


@pytest.mark.parametrize("damage", [b"this is no database at all" * 100, b""])
def test_a_damaged_file_is_started_anew(tmp_path: Path, damage: bytes) -> None:
    cache = FolderFeatureCache(tmp_path)
    cache.put_many({"a": array(1)})
    for leftover in tmp_path.glob("features.sqlite3-*"):
        leftover.unlink()
    cache.file.write_bytes(damage)
    again = FolderFeatureCache(tmp_path)
    assert again.get_many(["a"]) == {}
    again.put_many({"a": array(2)})
    assert np.array_equal(again.get_many(["a"])["a"], array(2))


def test_damage_while_open_is_a_miss(tmp_path: Path) -> None:
    cache = FolderFeatureCache(tmp_path)
    cache.put_many({"a": array(1)})
    for leftover in tmp_path.glob("features.sqlite3-*"):
        leftover.unlink()
    cache.file.write_bytes(b"rubbish" * 1000)
    assert cache.get_many(["a"]) == {}
    cache.put_many({"b": array(2)})
    assert np.array_equal(cache.get_many(["b"])["b"], array(2))
