"""Gates: places where a test holds a real process until it says otherwise. A gate is a file, so it works across kills.

A test closes a gate by name; the process that comes to it says so in a file beside it and waits there for as long as
the gate is closed. Nobody sleeps in the hope that something has happened meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from tests.support.service import wait_for

LOOK_S = 0.02

How = Literal["steps", "deaf", "die"]
"""At the gate: make steps, as work does that asks between them whether to stop; ask nobody; or die of SIGKILL."""


class Gates:
    """The gates of one process, in a folder that the test and the process share."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    # -- the test's side

    def close(self, name: str, how: How = "steps", *, after: int = 0, only: str | None = None) -> None:
        """Close a gate: for whoever has made `after` steps in that phase, and only for the job of that name."""
        self._write(f"{name}.closed", {"how": how, "after": after, "only": only})

    def open(self, name: str) -> None:
        for ending in ("closed", "held"):
            (self.folder / f"{name}.{ending}").unlink(missing_ok=True)

    def open_all(self) -> None:
        for path in self.folder.iterdir():
            path.unlink(missing_ok=True)

    def is_held(self, name: str) -> bool:
        return (self.folder / f"{name}.held").exists()

    def wait_held(self, name: str, timeout_s: float = 120.0) -> int:
        """Wait until a process stands before the gate; its number."""
        wait_for(f"a process before the gate {name!r}", lambda: self.is_held(name), timeout_s, LOOK_S)
        return int((self.folder / f"{name}.held").read_text())

    def waiting(self, name: str) -> int:
        """How many stand before a gate of requests, see `held`."""
        return int(self._read(f"{name}.held", 0))

    def slow_disk(self, seconds: float) -> None:
        """Every fsync takes so much longer from now on."""
        self._write("fsync.slow", seconds)

    def step_clock(self, milliseconds: int) -> None:
        """The clock of the leases is off by so much from now on."""
        self._write("clock.step", milliseconds)

    def _write(self, name: str, value: Any) -> None:
        draft = self.folder / f".{name}"
        draft.write_text(json.dumps(value))
        draft.replace(self.folder / name)

    # -- the side of the process that is held

    def _read(self, name: str, default: Any) -> Any:
        try:
            return json.loads((self.folder / name).read_text())
        except (FileNotFoundError, ValueError):
            return default

    def stand(
        self, name: str, *, steps: int = 0, who: str | None = None, check: Callable[[], object] = lambda: None
    ) -> None:
        """Come to a gate; return at once where it is open."""
        order = self._read(f"{name}.closed", None)
        if order is None or steps < order["after"] or order["only"] not in (None, who):
            return
        if order["how"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        self._write(f"{name}.held", os.getpid())
        while (self.folder / f"{name}.closed").exists():
            if order["how"] == "steps":
                check()
            time.sleep(LOOK_S)

    async def held(self, name: str) -> None:
        """The same for one of many requests that a process answers at once; they are counted."""
        if not (self.folder / f"{name}.closed").exists():
            return
        self._write(f"{name}.held", self.waiting(name) + 1)
        while (self.folder / f"{name}.closed").exists():
            await asyncio.sleep(LOOK_S)

    @property
    def fsync_s(self) -> float:
        return float(self._read("fsync.slow", 0.0))

    def now_ms(self) -> int:
        """This machine's time, off by what the test says."""
        return int(time.time() * 1000) + int(self._read("clock.step", 0))
