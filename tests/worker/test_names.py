"""Remembered names are those that are there: also where the clock of the folder stands still between two changes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from worker.store.local import LocalStore
from worker.store.names import Names


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "data")


def change(store: LocalStore, name: str, at: float) -> None:
    """Put a name there, or take it away; the folder's clock says `at`."""
    if not store.delete(f"models/{name}"):
        store.put(f"models/{name}/model.json", b"{}")
    os.utime(store.path("models"), (at, at))


def test_two_changes_in_one_tick_are_both_seen(store: LocalStore) -> None:
    names, tick = Names(store, "models"), time.time()
    assert list(names.sorted()) == []
    for name, there in (("b", ["b"]), ("a", ["a", "b"]), ("b", ["a"]), ("c", ["a", "c"])):
        change(store, name, tick)
        assert list(names.sorted()) == there


def test_a_folder_at_rest_is_listed_once(store: LocalStore, monkeypatch: pytest.MonkeyPatch) -> None:
    names, hour = Names(store, "models"), 3600.0
    change(store, "a", time.time() - hour)
    looks: list[str] = []
    look = store.names
    monkeypatch.setattr(store, "names", lambda prefix: looks.append(prefix) or look(prefix))
    assert [list(names.sorted()) for _ in range(3)] == [["a"]] * 3
    assert len(looks) == 1
    change(store, "b", time.time() - hour / 2)
    assert [list(names.sorted()) for _ in range(3)] == [["a", "b"]] * 3
    assert len(looks) == 2
