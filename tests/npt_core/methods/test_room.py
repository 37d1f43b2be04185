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
from npt_core.methods import ImageBatch, get_method
from npt_core.methods.parts.room import BESIDE, Appetite, kept_bytes
from npt_core.methods.parts.visual import VisualMethod
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
    one.fit_memory(10**12, 32)
    assert one.chunk is None
    whole = one.encode_text()
    (gradient,) = torch.autograd.grad(whole.square().mul(torch.arange(whole.shape[1])).sum(), one.ctx)
    one.fit_memory(2_000_000, 32)
    assert one.chunk is not None
    assert 1 < one.chunk < K
    cut = one.encode_text()
    (again,) = torch.autograd.grad(cut.square().mul(torch.arange(cut.shape[1])).sum(), one.ctx)
    one.chunk = None
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(again, gradient, rtol=1e-4, atol=1e-4 * float(gradient.norm()))


def test_prompts_of_several_images_are_counted_together() -> None:
    one = method("cocoop")
    one.fit_memory(10**12, 32)
    assert one.chunk % K == 0
    assert one.chunk > K
    one.fit_memory(1_000_000, 32)
    assert 1 <= one.chunk < K


def pictures(count: int) -> torch.Tensor:
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def kept_of(run: Any) -> tuple[int, torch.Tensor]:
    """Bytes that autograd keeps of the images and prompts of a forward pass, and what it returns."""
    storages: dict[int, torch.Tensor] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storages[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        found = run()
    return sum(tensor.untyped_storage().nbytes() for tensor in storages.values()), found


@pytest.mark.parametrize(
    ("name", "config"), [("vpt", {"prompt_depth": 1}), ("vpt", {}), ("maple", {}), ("upt", {}), ("promptsrc", {})]
)
def test_the_guess_from_one_picture_holds_for_many(name: str, config: dict[str, Any]) -> None:
    one, few, many = method(name, **config), 8, 24
    less, _ = kept_of(lambda: one.encode_image(ImageBatch(pixels=pictures(few))))
    more, _ = kept_of(lambda: one.encode_image(ImageBatch(pixels=pictures(many))))
    each = BESIDE * (more - less) / (many - few)
    assert 0.7 * one.picture_bytes() < each < 1.1 * one.picture_bytes()  # deep tokens are keys only here and there


@pytest.mark.parametrize("name", ["vpt", "maple", "upt", "promptsrc", "dpt"])
@pytest.mark.parametrize("fit", [20, 9, 4, 1, 0.5])
def test_pictures_that_do_not_fit_are_computed_twice(name: str, fit: float) -> None:
    size = 16
    one = method(name)
    batch = ImageBatch(pixels=pictures(size), labels=torch.arange(size) % K)
    one.picture_bytes()  # counted once, by a picture of its own
    computed: list[int] = []
    handle = one.backbone.image.visual.conv1.register_forward_hook(lambda _, __, out: computed.append(len(out)))

    def gradients() -> tuple[int, torch.Tensor, list[torch.Tensor]]:
        one.zero_shot_text()
        text = one.encode_text().detach()  # the pictures alone
        kept, output = kept_of(lambda: one(batch, text))
        loss = torch.nn.functional.cross_entropy(output.logits, batch.labels)
        learned = [p for p in one.parameters() if p.numel()]
        found = torch.autograd.grad(loss, learned, allow_unused=True, materialize_grads=True)
        return kept, output.logits.detach(), list(found)

    try:
        one.images_at_once, one.images_kept = 32, None
        _, whole, wanted = gradients()
        assert sum(computed) == size * (2 if name == "dpt" else 1)  # its candidates come from the frozen tower
        computed.clear()
        one.images_kept = None
        VisualMethod.fit_memory(one, int(fit * one.picture_bytes()) + 1, size)
        kept, cut, found = gradients()
        again = size - min(size, one.images_kept or 0)
        assert sum(computed) == size * (2 if name == "dpt" else 1) + again
        assert (one.images_kept or 0) + (one.images_at_once if again else 0) <= max(1, fit)
        assert kept <= max(1, fit) * one.picture_bytes() + weights(one)
    finally:
        handle.remove()
    torch.testing.assert_close(cut, whole, rtol=0, atol=1e-4)
    for one_gradient, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one_gradient, other, rtol=1e-4, atol=1e-6 + 1e-4 * float(other.norm()))


def weights(one: Any) -> int:
    """Bytes of the tower and of what is learned, which are there in any case, and of K-way logits."""
    own = [*one.backbone.image.visual.parameters(), *one.parameters()]
    return sum(p.nbytes for p in own) + 64 * K * 16


def test_prompts_and_pictures_share_the_budget() -> None:
    one = method("maple")
    one.images_at_once, one.images_kept = 32, None
    text = one.appetite()
    one.fit_memory(10**12, 4)
    assert (one.chunk, one.images_kept) == (None, 4)
    budget = int(text.shared + K * text.each + 2.5 * one.picture_bytes())
    one.fit_memory(budget, 4)  # the prompts are cut first: pictures have up to half
    assert one.chunk is not None
    assert one.images_kept == 4
    one.fit_memory(int(one.picture_bytes()), 4)
    assert (one.images_kept, one.images_at_once) == (0, 1)


def test_after_all_out_of_memory_fewer_pictures_are_kept() -> None:
    one = method("vpt")
    one.images_at_once, one.images_kept = 8, 24
    seen = []
    while one.halve_chunk():
        seen.append((one.images_at_once, one.images_kept))
        if seen[-1] == (1, 0) and one.chunk == 1:
            break
    assert seen[:3] == [(4, 12), (2, 6), (1, 3)]
    assert (1, 0) in seen
    assert not one.halve_chunk()


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
