"""Small programs to supervise, and questions about processes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.support.service import wait_for


def python(code: str, *arguments: str | Path) -> list[str]:
    """The command line of a small Python program; `-S` makes it start fast."""
    return [sys.executable, "-I", "-S", "-c", code, *map(str, arguments)]


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_gone(pids: Iterable[int], timeout_s: float = 20) -> None:
    for pid in pids:
        wait_for(f"process {pid} to be gone", lambda pid=pid: not alive(pid), timeout_s)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    process = psutil.Process(pid)
    return [process.pid, *(child.pid for child in process.children(recursive=True))]
