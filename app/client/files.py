"""Answers that become files: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO


@dataclass(frozen=True)
class Download:
    """What is fetched, and where it goes."""

    url: str
    target: str | Path
    params: Mapping[str, str]

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.target).expanduser()

    @contextlib.contextmanager
    def open(self) -> Iterator[IO[bytes]]:
        """A file beside the target, which takes its place when the block ends well."""
        part = self.path.with_name(f".{secrets.token_hex(8)}.part")  # two threads may fetch the same file
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)
