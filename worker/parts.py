"""The parts that a long result is made of while its job runs: `jobs/<id>/parts/00000256-00000512`.

A part is named by what it covers. Each is written whole, by whichever attempt comes first, and the next one begins
where it ends; so an attempt goes on where the parts end, and an owner that has lost its lease spoils nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from worker.jobfiles import PARTS
from worker.store.base import Store

_NAME = re.compile(r"(\d{8})-(\d{8})")


class Parts:
    """The parts of one job's result, as every attempt sees them."""

    def __init__(self, store: Store, job_id: str) -> None:
        self._store, self._folder = store, f"jobs/{job_id}/{PARTS}"

    def done(self) -> int:
        """How much is made for good, from the beginning and without a gap."""
        chain = self._chain()
        return chain[-1][1] if chain else 0

    def add(self, start: int, end: int, data: bytes) -> None:
        """Make the part [start, end) for good; where it is there already, it stays as it is."""
        self._store.put(f"{self._folder}/{start:08d}-{end:08d}", data, create_only=True)

    def __iter__(self) -> Iterator[Path]:
        """The file of every part, in order."""
        for start, end in self._chain():
            yield self._store.fetch(f"{self._folder}/{start:08d}-{end:08d}")

    def _chain(self) -> list[tuple[int, int]]:
        """The parts of which each begins where the one before it ends, as far as any such chain goes.

        Two attempts on different devices cut at different places, and one that has lost its lease may add a part late.
        """
        parts = [(int(m[1]), int(m[2])) for name in self._store.names(self._folder) if (m := _NAME.fullmatch(name))]
        best: dict[int, tuple[int, int]] = {}  # start -> how far a chain from there goes, and where its first part ends
        for start, end in sorted(parts, reverse=True):
            if end > start:
                best[start] = max(best.get(start, (0, 0)), (best.get(end, (end, end))[0], end))
        chain: list[tuple[int, int]] = []
        start = 0
        while start in best:
            chain.append((start, best[start][1]))
            start = best[start][1]
        return chain
