from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from npt_core.data import Dataset
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone() -> Any:
    return tiny_backbone("clip")


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    """8 pictures of each of three classes, no splits."""
    return Dataset.from_folder(write_folder(tmp_path / "pictures", {"red": 8, "green": 8, "blue": 8}))
