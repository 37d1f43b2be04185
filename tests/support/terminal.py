"""A command as a person types it: in a process of its own, with pipes or in a real terminal (a pty)."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.service import ROOT, wait_for

ROWS, COLUMNS = 40, 140


def environment(**settings: str) -> dict[str, str]:
    """The environment without settings of ours, and those that were given; no Redis answers by default."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("NPT_")}
    return inherited | {"NPT_REDIS_URL": "redis://127.0.0.1:1", "PYTHONPATH": str(ROOT)} | settings


def npt(
    *arguments: str | Path, cwd: Path = ROOT, timeout_s: float = 180, **settings: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with pipes and wait for its end."""
    return subprocess.run(
        [sys.executable, "-m", "app", *map(str, arguments)],
        cwd=cwd,
        env=environment(**settings),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout_s,
        stdin=subprocess.DEVNULL,
    )


@dataclass
class Terminal:
    """A command that runs in a terminal."""

    process: subprocess.Popen[bytes]
    _end: int
    _read: list[bytes] = field(default_factory=list)

    @property
    def text(self) -> str:
        """Everything that was written so far."""
        return b"".join(self._read).decode(errors="replace")

    def wait_for(self, words: str, timeout_s: float = 120) -> None:
        """Until the terminal shows the words."""
        wait_for(f"the terminal to show {words!r}", lambda: words in self.text or self._ended(words), timeout_s)

    def _ended(self, words: str) -> bool:
        if self.process.poll() is not None and words not in self.text:
            raise AssertionError(f"it ended with {self.process.returncode} before it showed {words!r}:\n{self.text}")
        return False

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self.process.send_signal(signal.SIGINT)

    def answer(self, line: str) -> None:
        """Type a line."""
        os.write(self._end, line.encode() + b"\n")

    def end(self, timeout_s: float = 120) -> int:
        """Wait for its end; the exit code."""
        return self.process.wait(timeout_s)


@contextlib.contextmanager
def in_terminal(arguments: Sequence[str | Path], cwd: Path = ROOT, **settings: str) -> Iterator[Terminal]:
    """Run a command in a terminal of its own."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, "-m", "app", *map(str, arguments)],
        cwd=cwd,
        env=environment(TERM="xterm-256color", **settings),
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    terminal = Terminal(process, ours)

    def read() -> None:
        with contextlib.suppress(OSError):  # the other end is closed when the command has ended
            while data := os.read(ours, 65536):
                terminal._read.append(data)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        yield terminal
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        reader.join(10)
        os.close(ours)
