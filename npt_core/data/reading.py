"""Reads pictures from the archives of a data set: one where it was uploaded whole, several where it has grown."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TypeAlias

from npt_core.data.archive import SafeArchive
from npt_core.data.ingest import Sample
from npt_core.data.sources import FolderSource, Source

ArchiveLike: TypeAlias = Path | str | Source
"""A zip that was judged before, a folder, or either of them open."""


class Reader:
    """Opens each archive at the first read and keeps it; shared by a data set and those made from it.

    Args:
        archives: In the order in which samples number them.
    """

    def __init__(self, archives: Sequence[ArchiveLike]) -> None:
        self.archives = tuple(archives)
        self._opened: dict[int, Source] = {}
        self._lock = threading.Lock()

    def only(self, numbers: Sequence[int]) -> Self:
        """A reader of some of the archives, in this order."""
        return type(self)([self.archives[number] for number in numbers])

    def read(self, sample: Sample) -> bytes:
        """The bytes of one picture.

        Raises:
            ArchiveError: They are damaged.
        """
        return self._source(sample.archive).read(sample.entry or sample.path)

    def _source(self, number: int) -> Source:
        with self._lock:
            if number not in self._opened:
                archive = self.archives[number]
                self._opened[number] = _open(archive) if isinstance(archive, Path | str) else archive
            return self._opened[number]

    def release(self) -> None:
        """Close what this reader opened by itself, and leave to others what was given open."""
        with self._lock:
            for number, source in list(self._opened.items()):
                if isinstance(self.archives[number], Path | str):
                    source.close()
                    del self._opened[number]

    def close(self) -> None:
        """Close what is open; what was given as a path is opened again should another picture be read."""
        with self._lock:
            given = [archive for archive in self.archives if not isinstance(archive, Path | str)]
            for source in (*self._opened.values(), *given):
                source.close()
            self._opened.clear()


def _open(path: Path | str) -> Source:
    return FolderSource(path) if Path(path).is_dir() else SafeArchive.reopen(path)
