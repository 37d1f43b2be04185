"""One process of the stack with all that is below it, to hold, to signal and to kill."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import psutil

from tests.support.faulty import GATES
from tests.support.gates import Gates
from tests.support.processes import alive
from tests.support.service import ROOT, wait_for


class Part:
    """One process and all below it."""

    def __init__(self, module: str, log: Path, environment: Mapping[str, str], gates: Gates) -> None:
        self.log, self.gates = log, gates
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=ROOT,
                env=inherited | environment | {GATES: str(gates.folder)},
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.environment = dict(environment)
        self.started = time.monotonic()

    @property
    def is_running(self) -> bool:
        return self.process.poll() is None

    def family(self) -> list[psutil.Process]:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self.process.pid)
            return [root, *root.children(recursive=True)]
        return []

    def send(self, number: signal.Signals) -> None:
        """A signal to all of it."""
        for process in self.family():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def kill(self) -> None:
        """SIGKILL to all of it at once."""
        members = self.family()
        for process in members:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self.process.wait(30)
        psutil.wait_procs(members, 30)

    def terminate(self, timeout_s: float = 60.0) -> tuple[int, float]:
        """SIGTERM to its first process: exit code, and seconds until nothing of it was left."""
        members, asked = self.family(), time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        wait_for("nothing to be left", lambda: not any(alive(one.pid) for one in members), 30, 0.01)
        return code, time.monotonic() - asked

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def listen(self) -> Callable[[str], bool]:
        """Asks from now on whether it has logged some words since now."""
        begin = self.log.stat().st_size
        return lambda words: words.encode() in self.log.read_bytes()[begin:]
