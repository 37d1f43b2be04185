"""How much a step keeps is counted before it is tried, and prompts are cut so that it fits."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.clip.tokens import ClassPrompt
from npt_core.methods import get_method
from npt_core.methods.parts.room import BESIDE, Appetite, kept_bytes
from npt_core.tuning import memory
from tests.support.tiny_clip import tiny_backbone

K = 300


@cache
def method(name: str, kind: str = "clip", **config: Any) -> Any:
    classes = [ClassPrompt(f"thing {n}") for n in range(K)]
    cls = get_method(name)
    backbone = tiny_backbone(kind, text={"context_length": 32} if kind == "clip" else {})
    return cls(cls.Config.from_dict(config), backbone, classes, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("name", "config"), [("coop", {}), ("coop", {"class_specific": True}), ("coop", {"position": "front"})]
)
def test_the_guess_from_a_few_prompts_holds_for_all(name: str, config: dict[str, Any]) -> None:
    one = method(name, **config)
    batch = one.table.assemble(one.ctx)
    appetite = Appetite.of(one.backbone.text, batch)
    kept = BESIDE * kept_bytes(one.backbone.text, batch)
    assert kept == pytest.approx(appetite.shared + K * appetite.each, rel=0.1)


@given(count=st.integers(1, 5000), each=st.floats(1, 1e6), shared=st.floats(0, 1e6), budget=st.integers(0, 10**9))
@settings(max_examples=200, deadline=None)
def test_a_chunk_fits_or_is_one(count: int, each: float, shared: float, budget: int) -> None:
    chunk = Appetite(each, shared).chunk(count, budget)
    if chunk is None:
        assert shared + count * each <= budget * (1 + 1e-9)
    else:
        assert 1 <= chunk <= count
        assert chunk == 1 or shared + chunk * each <= budget * (1 + 1e-9)


def test_a_step_within_a_budget_learns_the_same() -> None:
    one = method("coop")
    one.fit_memory(10**12)
    assert one.chunk is None
    whole = one.encode_text()
    (gradient,) = torch.autograd.grad(whole.square().mul(torch.arange(whole.shape[1])).sum(), one.ctx)
    one.fit_memory(2_000_000)
    assert one.chunk is not None
    assert 1 < one.chunk < K
    cut = one.encode_text()
    (again,) = torch.autograd.grad(cut.square().mul(torch.arange(cut.shape[1])).sum(), one.ctx)
    one.chunk = None
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-4 * float(gradient.norm()))


def test_prompts_of_several_images_are_counted_together() -> None:
    one = method("cocoop")
    one.fit_memory(10**12)
    assert one.chunk % K == 0
    assert one.chunk > K
    one.fit_memory(1_000_000)
    assert 1 <= one.chunk < K


def test_what_the_operator_allows_goes_before_what_is_free() -> None:
    cpu = torch.device("cpu")
    assert memory.step_budget(cpu, 123) == 123
    assert 0 < memory.step_budget(cpu) <= memory.MOST_ON_CPU


@pytest.mark.parametrize(("most", "free"), [("1000000", 700_000), ("max", None), ("200000", 0)])
def test_a_container_has_no_more_than_it_may(tmp_path: Path, most: str, free: int | None) -> None:
    (tmp_path / "memory.max").write_text(most + "\n")
    (tmp_path / "memory.current").write_text("500000\n")
    (tmp_path / "memory.stat").write_text("anon 300000\ninactive_file 200000\n")
    machine = memory.free_memory(tmp_path / "nothing")
    found = memory.free_memory(tmp_path)
    assert found == free if free is not None else found == pytest.approx(machine, rel=0.2)
