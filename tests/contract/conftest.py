from __future__ import annotations

from typing import Any

import pytest
import torch

from npt_core import Dataset
from tests.contract.cases import TEXT
from tests.support.pictures import write_folder
from tests.support.tiny_clip import tiny_backbone


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone() -> Any:
    return tiny_backbone("clip", text=TEXT)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return Dataset.from_folder(write_folder(tmp_path_factory.mktemp("contract"), {"red": 6, "green": 6, "blue": 6}))
