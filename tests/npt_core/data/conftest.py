from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest

from tests.support.zips import RawEntry, raw_zip, write_zip

ZipMaker = Callable[[Mapping[str, bytes] | Iterable[tuple[str, bytes]]], Path]
RawMaker = Callable[..., Path]


@pytest.fixture
def make_zip(tmp_path: Path) -> ZipMaker:
    """Write an honest zip and give its path."""
    count = 0

    def make(files: Mapping[str, bytes] | Iterable[tuple[str, bytes]]) -> Path:
        nonlocal count
        count += 1
        return write_zip(tmp_path / f"made-{count}.zip", files)

    return make


@pytest.fixture
def make_raw(tmp_path: Path) -> RawMaker:
    """Write a zip whose fields may lie and give its path."""

    def make(*entries: RawEntry, **lies: object) -> Path:
        path = tmp_path / "raw.zip"
        path.write_bytes(raw_zip(entries, **lies))  # type: ignore[arg-type]
        return path

    return make
