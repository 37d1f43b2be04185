"""Small files that say which child works on what: they outlive Redis, and their process by a moment at most.

Machines may share the data folder, and numbers of processes are only unique on one: the names have the node too.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Busy:
    """A child at work."""

    pid: int
    job_id: str
    fence: int
    path: Path


class BusyMark:
    """The mark of one child."""

    def __init__(self, run_dir: Path, node: str, worker: str, pid: int) -> None:
        self._path = run_dir / "workers" / f"{_name(node, worker)}.{pid}"

    def write(self, job_id: str, fence: int) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._path.write_text(f"{job_id} {fence}")

    @contextlib.contextmanager
    def on(self, job_id: str, fence: int) -> Iterator[None]:
        """At work on that, for as long as this lasts. A mark that cannot be written is done without."""
        with contextlib.suppress(OSError):
            self.write(job_id, fence)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)


def busy(run_dir: Path, node: str, worker: str) -> list[Busy]:
    """The children of a worker that are at work."""
    found = []
    for path in (run_dir / "workers").glob(f"{_name(node, worker)}.*"):
        with contextlib.suppress(OSError, ValueError):
            job_id, fence = path.read_text().split()
            found.append(Busy(int(path.suffix[1:]), job_id, int(fence), path))
    return found


def sweep_the_dead(run_dir: Path, node: str, lives: Callable[[str], bool]) -> None:
    """Remove the marks of workers of this machine that are no more: those that lost the power removed none."""
    for path in (run_dir / "workers").glob(f"*.{_hash(node)}.*"):
        if not lives(path.name.partition(".")[0]):
            path.unlink(missing_ok=True)


def sweep(run_dir: Path, node: str, gone: str) -> None:
    """Remove the marks of a worker that is no more."""
    for path in (run_dir / "workers").glob(f"{_name(node, gone)}.*"):
        path.unlink(missing_ok=True)


def _name(node: str, worker: str) -> str:
    return f"{worker}.{_hash(node)}"


def _hash(node: str) -> str:
    return hashlib.sha256(node.encode()).hexdigest()[:12]
