"""The fast text path against the reference, the reference against open_clip: features and gradients in float64."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from npt_core.clip import PromptTable, init_ctx, text_fast
from npt_core.clip.prompts import PromptBatch
from npt_core.clip.text import TextTower
from npt_core.clip.text_fast import _fill, _plan
from npt_core.clip.tokens import ClassPrompt
from tests.support.tiny_clip import tiny_backbone

# variants of the text tower for which the fast path must be exact
TOWERS: dict[str, tuple[str, dict[str, Any]]] = {
    "root": ("clip", {}),
    "quickgelu": ("quickgelu", {}),
    "custom-eos-bias-layerscale": ("custom", {}),
    "custom-argmax": ("custom", {"pool_type": "argmax"}),
    "no-projection": ("custom", {"proj_type": "none", "width": 16, "heads": 2}),
    "long-context": ("clip", {"context_length": 77}),
    "one-block": ("clip", {"layers": 1}),
    "one-head": ("clip", {"heads": 1}),
}
NAMES = ["cat", "red_panda", "a very long name of seven words", "dog", "great white shark", "ox", "snow leopard"]


@cache
def backbone(tower: str, precision: str = "fp64") -> Any:
    kind, text = TOWERS[tower]
    return tiny_backbone(kind, precision=precision, text=text)


def classes(k: int, phrasings: int = 1) -> list[ClassPrompt]:
    return [
        ClassPrompt(name, phrasings=(name, *(f"{name} kind {p}" for p in range(1, phrasings)))) for name in NAMES[:k]
    ]


def features_and_gradients(
    tower: TextTower, make: Any, learned: list[torch.Tensor], path: str, chunk: int | None
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """Features of the batch that `make()` builds, and gradients of a fixed random projection of them."""
    features = tower.encode_prompts(make(), path=path, chunk=chunk)  # type: ignore[arg-type]
    weights = torch.randn(features.shape, generator=torch.Generator().manual_seed(3), dtype=features.dtype)
    return features.detach(), list(torch.autograd.grad((features * weights).sum(), learned))


def assert_same(tower: TextTower, make: Any, learned: list[torch.Tensor], chunk: int | None) -> None:
    slow, slow_gradients = features_and_gradients(tower, make, learned, "reference", None)
    fast, fast_gradients = features_and_gradients(tower, make, learned, "fast", chunk)
    assert fast.shape == slow.shape
    torch.testing.assert_close(fast, slow, rtol=0, atol=1e-12)
    for quick, full in zip(fast_gradients, slow_gradients, strict=True):
        assert float(full.norm()) > 1e-6, "a gradient of nothing proves nothing"
        torch.testing.assert_close(quick, full, rtol=1e-10, atol=1e-12 * float(full.norm()))


@contextmanager
def pack_rows(rows: int) -> Iterator[None]:
    """Packs of about so many rows, so that a handful of prompts already fills several."""
    before = text_fast._PACK_ROWS
    text_fast._PACK_ROWS = rows
    text_fast._plan.cache_clear()
    try:
        yield
    finally:
        text_fast._PACK_ROWS = before
        text_fast._plan.cache_clear()


def random_ctx(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (noise * 0.1).requires_grad_()


@pytest.mark.parametrize("tower", TOWERS)
@pytest.mark.parametrize("position", ["end", "middle", "front"])
def test_shared_context(tower: str, position: Any) -> None:
    b = backbone(tower)
    table = PromptTable(b, classes(5), 5, position)
    ctx = random_ctx((5, b.d_text))
    assert_same(b.text, lambda: table.assemble(ctx), [ctx], None)


@pytest.mark.parametrize("tower", ["root", "custom-eos-bias-layerscale"])
@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize("each", ["class", "phrasing"])
def test_class_specific_context_and_phrasings(tower: str, position: Any, each: str) -> None:
    b = backbone(tower)
    table = PromptTable(b, classes(4, phrasings=2), 4, position)
    ctx = random_ctx((table.K if each == "class" else table.N, 4, b.d_text))
    assert_same(b.text, lambda: table.assemble(ctx), [ctx], 3)


@pytest.mark.parametrize("position", ["end", "middle", "front"])
@pytest.mark.parametrize(("chunk", "rows"), [(None, 64), (2, 64), (None, 8)])
def test_one_context_for_each_image(position: Any, chunk: int | None, rows: int) -> None:
    b = backbone("root")
    table = PromptTable(b, classes(7), 4, position)
    ctx = random_ctx((3, 4, b.d_text))
    with pack_rows(rows):
        assert_same(b.text, lambda: table.assemble(ctx, grouped=True), [ctx], chunk)


@pytest.mark.parametrize("tower", TOWERS)
def test_more_prompts_than_one_pack_holds(tower: str) -> None:
    b = backbone(tower)
    many = [f"{name} number {i}" for name in NAMES for i in range(4)]
    table = PromptTable(b, many, 3)
    lengths = tuple((table.eot_index - 3).tolist())
    assert text_fast._plan(lengths, max(lengths), 4, b.device, b.dtype).packs > 1
    ctx = random_ctx((3, b.d_text))
    assert_same(b.text, lambda: table.assemble(ctx), [ctx], None)


def test_groups_do_not_mix() -> None:
    b = backbone("root")
    table = PromptTable(b, classes(4), 4)
    ctx = random_ctx((3, 4, b.d_text)).detach()
    together = b.text(table.assemble(ctx, grouped=True))
    for g in range(3):
        torch.testing.assert_close(together[g], b.text(table.assemble(ctx[g])), rtol=0, atol=1e-12)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("rows", [64, 8])
def test_deep_context(depth: int, grouped: bool, rows: int) -> None:
    b = backbone("root")
    table = PromptTable(b, classes(5), 3)
    ctx = random_ctx((2, 3, b.d_text) if grouped else (3, b.d_text))
    deep = random_ctx((depth, 3, b.d_text), seed=1)
    with pack_rows(rows):
        for chunk in (None, 2):
            assert_same(b.text, lambda: table.assemble(ctx, grouped=grouped, deep_ctx=deep), [ctx, deep], chunk)


@pytest.mark.parametrize("n_ctx", [0, 1])
def test_little_or_no_context(n_ctx: int) -> None:
    b = backbone("root")
    table = PromptTable(b, classes(3), n_ctx)
    batch = table.assemble(random_ctx((n_ctx, b.d_text)))
    torch.testing.assert_close(b.text(batch, path="fast"), b.text(batch, path="reference"), rtol=0, atol=1e-12)


def test_no_start_token_and_no_prefix() -> None:
    b = backbone("root")
    suffix = random_ctx((4, 6, b.d_text))
    eot = torch.tensor([5, 2, 0, 3])
    assert_same(b.text, lambda: PromptBatch(suffix.new_zeros(0, b.d_text), suffix, eot, n_sos=0), [suffix], None)


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_layout(data: st.DataObject) -> None:
    """Any prefix, lengths, padding, groups, chunk: embeddings at random, gradient to every one of them."""
    b = backbone(data.draw(st.sampled_from(["root", "custom-eos-bias-layerscale"])))
    p = data.draw(st.integers(0, 8), label="P")
    n = data.draw(st.integers(1, 12), label="N")
    lengths = data.draw(st.lists(st.integers(1, 10), min_size=n, max_size=n), label="lengths")
    s = max(lengths) + data.draw(st.integers(0, 3), label="padding")
    g = data.draw(st.sampled_from([None, 1, 3]), label="G")
    both = g is not None and data.draw(st.booleans(), label="suffix by group")
    prefix = random_ctx((p, b.d_text) if g is None else (g, p, b.d_text))
    suffix = random_ctx((g, n, s, b.d_text) if both and g is not None else (n, s, b.d_text), seed=1)
    eot = torch.tensor(lengths) + p - 1
    chunk = data.draw(st.sampled_from([None, 1, 2, 5, 100]), label="chunk")
    learned = [prefix, suffix] if p else [suffix]
    with pack_rows(data.draw(st.sampled_from([1, 7, 64]), label="rows of a pack")):
        assert_same(b.text, lambda: PromptBatch(prefix, suffix, eot), learned, chunk)


def test_what_stands_behind_eot_does_not_matter() -> None:
    b = backbone("root")
    prefix, suffix = random_ctx((4, b.d_text)), random_ctx((3, 6, b.d_text), seed=1)
    eot = torch.tensor([5, 9, 7])
    batch = PromptBatch(prefix, suffix, eot)
    noisy = suffix.detach().clone()
    for n, end in enumerate(eot.tolist()):
        noisy[n, end - 4 + 1 :] = 7.0
    for path in ("fast", "reference"):
        torch.testing.assert_close(
            b.text(batch, path=path), b.text(PromptBatch(prefix, noisy, eot), path=path), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("chunk", [1, 3, 7])
@pytest.mark.parametrize("tower", ["root", "siglip"])
def test_reference_in_chunks(tower: str, chunk: int) -> None:
    b = tiny_backbone("siglip", precision="fp64") if tower == "siglip" else backbone(tower)
    table = PromptTable(b, classes(5, phrasings=2), 2)
    ctx = random_ctx((2, b.d_text))
    whole, gradients = features_and_gradients(b.text, lambda: table.assemble(ctx), [ctx], "reference", None)
    parts, again = features_and_gradients(b.text, lambda: table.assemble(ctx), [ctx], "reference", chunk)
    torch.testing.assert_close(parts, whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(again[0], gradients[0], rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", ["clip", "quickgelu", "custom", "resnet", "siglip"])
def test_reference_is_open_clip(kind: str) -> None:
    """Hand-made tokens through open_clip's own `encode_text`."""
    b = tiny_backbone(kind, precision="fp64")
    length, sos, eot = b.context_length, b.tokenizer.sos_id, b.tokenizer.eot_id
    tokens = torch.full((4, length), b.tokenizer.pad_id)
    ends = torch.tensor([3, 7, length - 1, 5])
    for n, end in enumerate(ends.tolist()):
        tokens[n, :end] = torch.randint(1, 40000, (end,), generator=torch.Generator().manual_seed(n))
        tokens[n, 0], tokens[n, end] = sos, eot
    batch = PromptBatch(b.text.embed(tokens[0, :1]), b.text.embed(tokens[:, 1:]), ends)
    own = b._model.encode_text(tokens, normalize=True)
    torch.testing.assert_close(b.text(batch, path="reference"), own, rtol=0, atol=1e-12)
    torch.testing.assert_close(b.text(batch), own, rtol=0, atol=1e-12)


def test_float32_agrees_as_promised() -> None:
    b = backbone("root", "fp32")
    table = PromptTable(b, classes(7), 4)
    ctx = init_ctx(b, 4, "a photo of a", torch.Generator().manual_seed(0)).requires_grad_()
    slow, slow_gradient = features_and_gradients(b.text, lambda: table.assemble(ctx), [ctx], "reference", None)
    fast, fast_gradient = features_and_gradients(b.text, lambda: table.assemble(ctx), [ctx], "fast", 3)
    assert float((fast - slow).abs().max()) < 1e-5
    assert float((fast_gradient[0] - slow_gradient[0]).norm() / slow_gradient[0].norm()) < 1e-4
    assert fast.dtype == torch.float32


@given(st.lists(st.integers(1, 40), min_size=1, max_size=200), st.integers(1, 128))
def test_packs_hold_every_prompt_once(lengths: list[int], aim: int) -> None:
    packs = _fill(lengths, aim)
    assert sorted(n for pack in packs for n in pack) == list(range(len(lengths)))
    assert all(packs)
    rows = [sum(lengths[n] for n in pack) for pack in packs]
    assert max(rows) <= 2 * aim + max(lengths)


def test_equal_lengths_need_no_filler() -> None:
    for count in (10, 100, 400):
        plan = _plan((4,) * count, 6, 17, torch.device("cpu"), torch.float32)
        assert plan.rows.numel() <= 4 * count * 1.02
