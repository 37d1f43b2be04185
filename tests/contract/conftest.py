from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support.tiny_clip import tiny_backbone


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def backbone() -> Any:
    return tiny_backbone("clip")
