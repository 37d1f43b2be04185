from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F

from npt_core.clip.backbone import Backbone
from npt_core.errors import PromptError, UnsupportedBackboneError
from tests.support.tiny_clip import build, tiny_backbone, tiny_config

B = tiny_backbone("clip", precision="fp64")
PIXELS = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def vision(**overrides: Any) -> Backbone:
    config = tiny_config("clip")
    config["vision_cfg"] |= overrides
    return Backbone.from_model(build(config), config, name="tiny", precision="fp64")


def prompts(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("kind", ["clip", "custom", "resnet", "siglip"])
def test_encode_is_open_clip(kind: str) -> None:
    b = tiny_backbone(kind, precision="fp64")
    features = b.encode_images(PIXELS)
    torch.testing.assert_close(features, b._model.encode_image(PIXELS, normalize=True), rtol=0, atol=1e-12)
    torch.testing.assert_close(features.norm(dim=-1), torch.ones(3, dtype=torch.float64))
    assert not features.requires_grad


@pytest.mark.parametrize("shape", [(0, 32), (2, 0, 32), (3, 1, 0, 32)])
def test_no_prompts_change_nothing(shape: tuple[int, ...]) -> None:
    plain = B.image.encode(PIXELS)
    torch.testing.assert_close(B.image.encode(PIXELS, prompts(*shape)), plain, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 32), (1, 4, 32), (2, 4, 32), (3, 2, 4, 32)])
def test_prompts_matter_and_learn(shape: tuple[int, ...]) -> None:
    learned = prompts(*shape)
    features = B.image.encode(PIXELS, learned)
    assert features.shape == (3, B.d)
    assert float((features.detach() - B.image.encode(PIXELS)).norm()) > 1e-3
    (gradient,) = torch.autograd.grad(features[:, 0].sum(), learned)
    assert (gradient.abs().amax(-1) > 0).all(), "every single prompt must reach the features"


@pytest.mark.parametrize("overrides", [{}, {"pool_type": "avg"}, {"no_ln_pre": True}, {"final_ln_after_pool": True}])
def test_deep_prompts_step_by_step(overrides: dict[str, Any]) -> None:
    """Against the definition, written out: append, normalise at the input; replace at the next layer; pool without."""
    b = vision(**overrides)
    v, learned = b._model.visual, prompts(2, 4, 32)
    x = v.conv1(PIXELS).flatten(2).transpose(1, 2)
    x = torch.cat([v.class_embedding.expand(3, 1, -1), x], dim=1) + v.positional_embedding
    x = v.ln_pre(torch.cat([x, learned[0].expand(3, -1, -1)], dim=1))
    x = v.transformer.resblocks[0](x)
    x = v.transformer.resblocks[1](torch.cat([x[:, :17], learned[1].expand(3, -1, -1)], dim=1))
    pooled, _ = v._pool(x[:, :17])
    wanted = F.normalize(pooled @ v.proj, dim=-1)
    torch.testing.assert_close(b.image.encode(PIXELS, learned), wanted, rtol=0, atol=1e-12)


def test_shallow_prompts_are_deep_ones_of_one_layer_carried_on() -> None:
    learned = prompts(4, 32)
    torch.testing.assert_close(B.image.encode(PIXELS, learned), B.image.encode(PIXELS, learned[None]))


def test_prompts_for_each_picture() -> None:
    learned = prompts(3, 2, 4, 32)
    together = B.image.encode(PIXELS, learned)
    for i in range(3):
        alone = B.image.encode(PIXELS[i : i + 1], learned[i])
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-12)


@pytest.mark.parametrize("shape", [(4, 31), (3, 4, 32), (2, 2, 4, 32), (4,), (0, 4, 32)])
def test_prompts_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match="accepted are"):
        B.image.encode(PIXELS, prompts(*shape))


@pytest.mark.parametrize("shape", [(3, 3, 31, 32), (3, 1, 32, 32), (3, 32, 32)])
def test_pictures_that_do_not_fit(shape: tuple[int, ...]) -> None:
    with pytest.raises(PromptError, match=r"\(B, 3, 32, 32\)"):
        B.encode_images(torch.zeros(shape))


def test_other_towers_refuse_prompts_with_the_reason() -> None:
    resnet = tiny_backbone("resnet")
    assert resnet.d_vision is None
    pooling = vision(attentional_pool=True, attn_pooler_queries=4, attn_pooler_heads=4)
    for b, reason in ((resnet, "ModifiedResNet"), (pooling, "pools by attention")):
        assert reason in str(b.image.prompt_refusal)
        with pytest.raises(UnsupportedBackboneError, match=reason):
            b.image.encode(PIXELS, prompts(4, 32))
        with pytest.raises(UnsupportedBackboneError, match=reason):
            b.image.encode_tokens(PIXELS)


def test_token_features() -> None:
    out = B.image.encode_tokens(PIXELS)
    assert out.tokens.shape == (3, 16, B.d)
    torch.testing.assert_close(out.pooled, B.encode_images(PIXELS), rtol=0, atol=1e-12)
    torch.testing.assert_close(out.tokens.norm(dim=-1), torch.ones(3, 16, dtype=torch.float64))
    v = B._model.visual
    last = v.transformer(v._embeds(PIXELS))[:, 5]  # the fifth position is the patch of index 4
    torch.testing.assert_close(out.tokens[:, 4], F.normalize(v.ln_post(last) @ v.proj, dim=-1), rtol=0, atol=1e-12)
    learned = prompts(2, 4, 32)
    prompted = B.image.encode_tokens(PIXELS, learned)
    torch.testing.assert_close(prompted.pooled, B.image.encode(PIXELS, learned), rtol=0, atol=1e-12)
    assert prompted.tokens.shape == (3, 16, B.d)
