from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from npt_core.clip.prompts import PromptBatch
from npt_core.clip.text import TextTower
from npt_core.errors import PromptError, PromptLengthError, UnsupportedBackboneError
from tests.support.tiny_clip import tiny_backbone, tiny_model

B = tiny_backbone("clip")


def batch(p: int = 3, s: int = 4, n: int = 2, d: int = 32, eot: list[int] | None = None, **kwargs: Any) -> PromptBatch:
    ends = torch.tensor(eot if eot is not None else [p + s - 1] * n)
    return PromptBatch(torch.zeros(p, d), torch.zeros(n, s, d), ends, **kwargs)


def test_facts_of_the_towers() -> None:
    assert (B.text.d, B.text.d_text, B.text.context_length, B.text.depth) == (16, 32, 24, 3)
    assert B.text_path == "fast"
    custom = tiny_backbone("custom")
    assert (custom.text.pooling, custom.text_path) == ("eos", "fast")
    siglip = tiny_backbone("siglip")
    assert (siglip.text_path, siglip.text_path_reason) == ("reference", "its attention is not causal")


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("siglip", {}, "not causal"),
        ("custom", {"pool_type": "last"}, "pools at the 'last' position"),
        ("custom", {"qk_norm": True}, "CustomResidualAttentionBlock"),
    ],
)
def test_towers_that_take_the_reference_path(kind: str, text: dict[str, Any], reason: str) -> None:
    b = tiny_backbone(kind, text=text)
    assert reason in b.text_path_reason
    features = b.encode_texts(["a cat", "two dogs"])
    tokens = torch.full((2, b.context_length), b.tokenizer.pad_id)
    for n, words in enumerate(("a cat", "two dogs")):
        ids = [b.tokenizer.sos_id, *b.tokenizer.encode(words), b.tokenizer.eot_id]
        tokens[n, : len(ids)] = torch.tensor(ids)
    torch.testing.assert_close(features, b._model.encode_text(tokens, normalize=True))
    with pytest.raises(PromptError, match="not exact for backbone 'tiny-"):
        b.text(batch(), path="fast")


def test_a_mask_that_is_not_plainly_causal_takes_the_reference_path() -> None:
    model, _ = tiny_model("clip")
    model.attn_mask[5, 0] = float("-inf")
    assert "not the plain causal one" in str(TextTower(model, name="x", dtype=torch.float32).fast_refusal)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda m: setattr(m, "cls_emb", nn.Parameter(torch.zeros(32))), "appends a class token"),
        (lambda m: setattr(m, "use_pad_mask", True), "masks padding by token id"),
        (lambda m: setattr(m, "text_pool_type", "none"), "pools by 'none'"),
        (lambda m: setattr(m.transformer, "batch_first", False), "do not take"),
        (lambda m: delattr(m, "ln_final"), "not open_clip's own transformer"),
    ],
)
def test_towers_that_take_no_prompts_are_refused_by_name(change: Any, reason: str) -> None:
    model, _ = tiny_model("clip")
    change(model)
    with pytest.raises(UnsupportedBackboneError, match=reason) as refused:
        TextTower(model, name="some/backbone", dtype=torch.float32)
    assert "'some/backbone'" in str(refused.value)


def test_coca_is_refused() -> None:
    with pytest.raises(UnsupportedBackboneError, match="CoCa"):
        tiny_backbone("coca")


@pytest.mark.parametrize(
    "bad",
    [
        batch(d=31),
        PromptBatch(torch.zeros(3, 32), torch.zeros(2, 4, 32), torch.tensor([5])),
        PromptBatch(torch.zeros(2, 3, 32), torch.zeros(3, 2, 4, 32), torch.tensor([5, 5])),
        PromptBatch(torch.zeros(32), torch.zeros(2, 4, 32), torch.tensor([5, 5])),
        batch(eot=[2, 5]),  # inside the prefix
        batch(eot=[5, 7]),  # behind the suffix
        batch(deep_ctx=torch.zeros(3, 2, 32)),  # deeper than the tower
        batch(deep_ctx=torch.zeros(1, 3, 32)),  # longer than the prefix
    ],
)
@pytest.mark.parametrize("path", ["fast", "reference"])
def test_batches_that_do_not_fit(bad: PromptBatch, path: Any) -> None:
    with pytest.raises(PromptError):
        B.text(bad, path=path)


def test_a_prompt_longer_than_the_tower() -> None:
    with pytest.raises(PromptLengthError, match="25 tokens do not fit into the 24"):
        B.text(batch(p=21, s=4))
    B.text(batch(p=21, s=4, eot=[23, 22]))  # padding may stand out


@pytest.mark.parametrize(("name", "value"), [("path", "quick"), ("chunk", 0)])
def test_unknown_options(name: str, value: Any) -> None:
    with pytest.raises(PromptError, match=str(value)):
        B.text(batch(), **{name: value})


def test_only_prompts_get_gradients() -> None:
    ctx = torch.zeros(3, 32, requires_grad=True)
    B.text(PromptBatch(ctx, torch.zeros(2, 4, 32), torch.tensor([6, 6]))).sum().backward()
    assert ctx.grad is not None
    assert all(p.grad is None and not p.requires_grad for p in B._model.parameters())


def test_no_graph_is_kept_without_gradients() -> None:
    features = B.text(batch(), chunk=1)
    assert not features.requires_grad


def test_checkpointed_chunks_keep_less_in_memory() -> None:
    """What is saved for the backward pass must not grow with the classes when they are chunked."""

    def saved(n: int, chunk: int | None) -> int:
        total = 0

        def pack(t: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += t.numel() if not t.is_leaf else 0
            return t

        prefix = torch.zeros(3, 32, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            B.text(PromptBatch(prefix, torch.zeros(n, 4, 32), torch.full((n,), 6)), chunk=chunk)
        return total

    assert saved(64, 8) < saved(64, None) / 5
