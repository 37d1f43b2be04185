"""A server with tiny towers whose jobs are worked on, and what a person has at hand: folders of pictures."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import Api
from tests.support.in_process import runner
from tests.support.pictures import write_folder

_SEEDS = itertools.count(50_000, 10)
"""The tests of this folder share one server: the same pictures twice would be one data set."""


@pytest.fixture
def working(api: Api) -> Iterator[None]:
    """Somebody works on jobs in the background."""
    stop = threading.Event()

    def work() -> None:
        one = runner(api.services)
        while not stop.wait(0.05):
            one.run_next()

    thread = threading.Thread(target=work)
    thread.start()
    yield
    stop.set()
    thread.join(60)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder of twelve pictures of three classes."""
    return write_folder(tmp_path / "colours", {"red": 4, "green": 4, "blue": 4}, first_seed=next(_SEEDS))
