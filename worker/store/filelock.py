"""A lock on a file: excludes threads and processes, of other machines too where the file system passes it on."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def flocked(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold it while the block runs; whether it is held, which is only ever False where `wait` is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:  # per open file: threads of one process exclude each other too
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
