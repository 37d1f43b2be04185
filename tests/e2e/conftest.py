"""One real embedded service for the whole folder: starting one takes seconds, and sharing it is what users do."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.service import ROOT, Service, running_service


@pytest.fixture(scope="session")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with running_service(tmp_path_factory.mktemp("e2e") / "data") as running:
        yield running


@pytest.fixture(scope="session")
def digits() -> bytes:
    return (ROOT / "examples" / "digits.zip").read_bytes()


@pytest.fixture(scope="session")
def holdout() -> Path:
    return ROOT / "examples" / "digits_holdout.zip"
