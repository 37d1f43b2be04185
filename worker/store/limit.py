"""How much the store may hold: one number in `run/used` that every process of the data folder keeps together.

What is written is added before it is written, what is removed is taken off after, under a lock of that file. Once a
minute the folders are measured, which sets right what a process that died, or a file written by path, left uncounted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

from worker.errors import StoreFullError

SMALL_BYTES = 64 * 1024
"""Records of this size are counted and never refused: a job must be able to end in a full store."""

_NUMBERS = struct.Struct("<qq")


class Limit:
    """Counts bytes and refuses what would go beyond.

    Args:
        path: The shared file; made where it is missing.
        max_bytes: The most; 0: no limit, and nothing is counted.
        measure: Bytes in the store now, from its files.
    """

    def __init__(self, path: Path, max_bytes: int, measure: Callable[[], int]) -> None:
        self._path, self.max_bytes, self._measure = path, max_bytes, measure

    def take(self, nbytes: int) -> None:
        """Count what is about to be written.

        Raises:
            StoreFullError: it does not fit; it is not counted then.
        """
        self._add(nbytes, refuse=nbytes > 0)

    def count(self, nbytes: int) -> None:
        """Count what was removed (negative), or is written whatever the limit says."""
        self._add(nbytes, refuse=False)

    def ensure(self, nbytes: int = 0) -> None:
        """Refuse early what would not fit.

        Raises:
            StoreFullError: so many bytes do not fit; with 0: the store is full.
        """
        if self.max_bytes:
            with self._numbers() as numbers:
                self._check(numbers[0], max(nbytes, 1))

    def recounted(self, measure: Callable[[], int]) -> int:
        """Measure, and set the count right; what is written meanwhile is added, seen or not: rather too much."""
        if not self.max_bytes:
            return measure()
        with self._numbers() as numbers:
            before = numbers[1]
        found = measure()
        with self._numbers() as numbers:
            numbers[0] = found + numbers[1] - before
        return found

    def _add(self, nbytes: int, *, refuse: bool) -> None:
        if not self.max_bytes or not nbytes:
            return
        with self._numbers() as numbers:
            if refuse:
                self._check(numbers[0], nbytes)
            numbers[0] = max(0, numbers[0] + nbytes)
            numbers[1] += max(0, nbytes)

    def _check(self, used: int, nbytes: int) -> None:
        if used + nbytes > self.max_bytes:
            raise StoreFullError(
                f"The store holds {used:,} bytes of the {self.max_bytes:,} it may hold (NPT_MAX_STORE_BYTES), and "
                f"{nbytes:,} more do not fit. Delete models, data sets or jobs; `python -m app gc --dry-run` lists "
                "what nothing needs."
            )

    @contextlib.contextmanager
    def _numbers(self) -> Iterator[list[int]]:
        """The bytes held, and all bytes ever added; written back when the block ends well."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            data = os.pread(descriptor, _NUMBERS.size, 0)
            numbers = list(_NUMBERS.unpack(data)) if len(data) == _NUMBERS.size else [self._measure(), 0]
            yield numbers
            os.pwrite(descriptor, _NUMBERS.pack(*numbers), 0)
        finally:
            os.close(descriptor)
