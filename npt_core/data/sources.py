"""Where files come from: a zip or a folder on this machine, read through the same few calls."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from npt_core.data.archive import DamagedEntryError, Entry
from npt_core.data.checks import Limits
from npt_core.data.faults import FaultLog
from npt_core.data.names import junk_kind, shown, text_fault
from npt_core.errors import DatasetError, Fault


class Source(Protocol):
    """Files by relative path; what `layout.read_layout` and `Dataset` read from."""

    limits: Limits
    faults: FaultLog

    @property
    def entries(self) -> Sequence[Entry]:
        """The files, litter left out."""

    @property
    def folders(self) -> Sequence[str]:
        """Folders known by name, empty ones among them."""

    @property
    def skipped(self) -> Mapping[str, int]:
        """Litter passed over, by kind."""

    def read(self, entry: Entry | str) -> bytes:
        """The whole content of one file."""

    def close(self) -> None:
        """Give back what is held open."""


class FolderSource:
    """A folder of the person who runs the program: trusted as to size, checked as to content.

    Links to files are followed, links to folders are not (they can form a circle) and are counted in `skipped`.

    Raises:
        DatasetError: No such folder.
    """

    def __init__(self, root: Path | str) -> None:
        self.root = Path(root)
        if not self.root.is_dir():
            raise DatasetError(f"{self.root} is not a folder. Give the folder that holds one folder a class.")
        self.limits = Limits(entries=sys.maxsize)
        self.faults = FaultLog()
        entries: list[Entry] = []
        folders: list[str] = []
        skipped: Counter[str] = Counter()
        for here, names, files in os.walk(self.root):
            names.sort()
            base = Path(here).relative_to(self.root).as_posix()
            prefix = "" if base == "." else f"{base}/"
            for name in list(names):
                junk = junk_kind(name)
                if junk is not None:
                    names.remove(name)
                    skipped[junk] += sum(len(inner) for _, _, inner in os.walk(Path(here, name)))
                elif Path(here, name).is_symlink():
                    skipped["linked folders"] += 1
                else:
                    folders.append(prefix + name)
            for name in sorted(files):
                junk = junk_kind(name)
                if junk is not None:
                    skipped[junk] += 1
                elif fault := text_fault(prefix + name):
                    self.faults.add(shown(prefix + name), f"the name {fault}; rename the file")
                else:
                    entries.append(Entry(prefix + name, _size(Path(here, name))))
        self.entries: tuple[Entry, ...] = tuple(entries)
        self.folders: tuple[str, ...] = tuple(folders)
        self.skipped: Mapping[str, int] = dict(skipped)

    def read(self, entry: Entry | str) -> bytes:
        """The whole content of one file."""
        path = entry if isinstance(entry, str) else entry.path
        try:
            return (self.root / path).read_bytes()
        except OSError as error:
            fault = Fault(shown(path), f"cannot be read: {error.strerror or error}")
            raise DamagedEntryError(f"{fault.path}: {fault.message}", [fault]) from error

    def close(self) -> None:
        """Nothing is held open."""


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:  # a dangling link: reading it will say so
        return 0
