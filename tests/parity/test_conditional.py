"""Images times classes in chunks, against a plain loop over images and classes: forward, gradient, tower calls."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from npt_core.clip import PromptTable
from npt_core.clip.text import TextTower
from npt_core.methods import ImageBatch
from tests.parity.straight import PHRASINGS, backbone, made

IMAGES = 5
PROMPTS = sum(len(some) for some in PHRASINGS)


def batch() -> ImageBatch:
    g = torch.Generator().manual_seed(4)
    features = torch.nn.functional.normalize(torch.randn(IMAGES, 16, generator=g, dtype=torch.float64), dim=-1)
    tokens = torch.nn.functional.normalize(torch.randn(IMAGES, 6, 16, generator=g, dtype=torch.float64), dim=-1)
    return ImageBatch(features, tokens)


def loop(m: Any, given: ImageBatch) -> Tensor:
    """(B, K, d), one image and one class at a time, through the reference path of the text tower."""
    rows = []
    for ctx in m.contexts(given):
        row = []
        for one in m.classes:
            table = PromptTable(backbone(), [one], m.config.n_ctx)
            row.append(table.pool(backbone().text(table.assemble(ctx), path="reference"))[0])
        rows.append(torch.stack(row))
    return torch.stack(rows)


@pytest.mark.parametrize("chunk", [1, 2, 3, 4, 5, 7, 9, 10, 11, 24, 25, 1000, None])
@pytest.mark.parametrize("name", ["cocoop", "apt"])
def test_chunks_are_a_plain_loop(name: str, chunk: int | None) -> None:
    m = made(name)
    m.chunk = chunk
    given = batch()
    text, straight = m(given).text_features, loop(m, given)
    torch.testing.assert_close(text, straight, rtol=0, atol=1e-12)
    weight = torch.randn(text.shape, generator=torch.Generator().manual_seed(5), dtype=text.dtype)
    parameters = list(m.parameters())
    ours = torch.autograd.grad((text * weight).sum(), parameters)
    theirs = torch.autograd.grad((straight * weight).sum(), parameters)
    for (which, _), one, other in zip(m.named_parameters(), ours, theirs, strict=True):
        assert float(other.norm()) > 1e-6, which
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-11, msg=which)


@pytest.mark.parametrize(
    ("chunk", "calls"), [(None, 1), (25, 1), (24, 2), (10, 3), (9, 5), (5, 5), (3, 5)], ids=lambda value: str(value)
)
def test_the_tower_is_called_for_many_images_at_once(
    chunk: int | None, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    m, sizes = made("cocoop"), []
    m.chunk = chunk
    own = TextTower.encode_prompts

    def counted(tower: TextTower, prompts: Any, **how: Any) -> Tensor:
        sizes.append((prompts.groups or 1) * prompts.N)
        return own(tower, prompts, **how)

    monkeypatch.setattr(TextTower, "encode_prompts", counted)
    with torch.no_grad():
        m(batch())
    assert len(sizes) == calls
    assert sum(sizes) == IMAGES * PROMPTS
    assert max(sizes) <= max(chunk or 1000, PROMPTS)
