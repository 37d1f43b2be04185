"""A file of results in the making that knows its size and its hash in the end."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self


class Ledger:
    """Written front to back. Use as a context manager."""

    def __init__(self, path: Path) -> None:
        self.path, self.size = path, 0
        self._digest = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, data: bytes) -> None:
        self._digest.update(data)
        self.size += self._file.write(data)

    def describe(self) -> dict[str, Any]:
        """What the job's result says of it."""
        return {"bytes": self.size, "sha256": self._digest.hexdigest()}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
