"""What a model remembers of its images."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from npt_core.continual.memory import MAX_DIRECTIONS, memory_fault, remember


def some(n: int, d: int, seed: int) -> Tensor:
    return torch.nn.functional.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=-1)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 30), st.integers(1, 20), st.integers(2, 24), st.integers(0, 99))
def test_it_holds_the_second_moment_of_all_images_so_far(n: int, m: int, d: int, seed: int) -> None:
    first, second = some(n, d, seed), some(m, d, seed + 100)
    memory = remember(second, remember(first), n)
    every = torch.cat([first, second])
    torch.testing.assert_close(memory.t() @ memory, every.t() @ every / (n + m), atol=1e-4, rtol=1e-3)
    assert memory_fault(memory, d) is None
    sizes = memory.norm(dim=1)
    assert bool((sizes[:-1] >= sizes[1:] - 1e-6).all())


def test_it_stays_small_and_the_largest_directions_stay() -> None:
    wide = some(200, 96, 0)
    memory = remember(wide)
    assert memory.shape == (MAX_DIRECTIONS, 96)
    values = torch.linalg.eigvalsh(wide.t() @ wide / 200).flip(0)[:MAX_DIRECTIONS]
    torch.testing.assert_close(memory.norm(dim=1).square(), values, atol=1e-4, rtol=1e-3)


def test_nothing_new_leaves_it_as_it_was_and_nothing_at_all_is_empty() -> None:
    memory = remember(some(5, 8, 1))
    torch.testing.assert_close(remember(torch.zeros(0, 8), memory, 5.0), memory, atol=1e-5, rtol=1e-4)
    assert remember(torch.zeros(0, 8)).shape == (0, 8)


@pytest.mark.parametrize(
    ("memory", "words"),
    [
        (torch.zeros(3), "shape"),
        (torch.zeros(3, 7), "rows of 8"),
        (torch.zeros(0, 8), "rows of 8"),
        (torch.zeros(MAX_DIRECTIONS + 1, 8), "rows of 8"),
        (torch.zeros(3, 8, dtype=torch.float64), "float32"),
        (torch.full((3, 8), torch.nan), "NaN"),
    ],
)
def test_what_cannot_be_a_memory_is_named(memory: Tensor, words: str) -> None:
    assert words in (memory_fault(memory, 8) or "")
