"""The fast image path against open_clip's own blocks, in float64: features, and gradients of everything learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from npt_core.clip.backbone import Backbone
from npt_core.clip.image import ImageTower
from npt_core.errors import PromptError, UnsupportedBackboneError
from tests.support.tiny_clip import build, tiny_backbone, tiny_config

B, PATCHES, WIDTH, DEPTH = 3, 16, 32, 3

TOWERS: dict[str, dict[str, Any]] = {
    "plain": {},
    "avg": {"pool_type": "avg"},
    "no_ln_pre": {"no_ln_pre": True},
    "final_ln_after_pool": {"final_ln_after_pool": True},
    "avg, final_ln_after_pool": {"pool_type": "avg", "final_ln_after_pool": True},
    "layer_scale": {"ls_init_value": 0.7},
    "output_tokens": {"output_tokens": True},
    "sin_cos": {"pos_embed_type": "sin_cos_2d"},
    "patch_dropout": {"patch_dropout": 0.5},  # the tower is frozen, in evaluation: nothing is dropped
}

LAYOUTS: dict[str, tuple[int, ...] | None] = {
    "none": None,
    "shallow": (4, WIDTH),
    "one layer": (1, 4, WIDTH),
    "two layers": (2, 4, WIDTH),
    "all layers": (DEPTH, 4, WIDTH),
    "one layer for each": (B, 1, 4, WIDTH),
    "two layers for each": (B, 2, 4, WIDTH),
    "all layers for each": (B, DEPTH, 4, WIDTH),
    "no tokens": (2, 0, WIDTH),
}


def tower(overrides: dict[str, Any], *, quick_gelu: bool = False, layers: int = DEPTH) -> ImageTower:
    config = tiny_config("quickgelu" if quick_gelu else "clip")
    config["vision_cfg"] |= {"layers": layers, **overrides}
    return Backbone.from_model(build(config), config, name="parity", precision="fp64").image


def draw(shape: tuple[int, ...], seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


PIXELS = draw((B, 3, 32, 32), 0)


class Aware(nn.Module):
    """Tokens of the last block out of what it reads, with a weight of their own; another number of them."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Parameter(draw((2, 1 + PATCHES), 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape == (B, 1 + PATCHES, WIDTH)  # the learned tokens are not among them
        return torch.tanh(self.mix @ x)


def both(
    image: ImageTower, layout: tuple[int, ...] | None, *, with_last: bool = False, tokens: bool = False
) -> list[tuple[torch.Tensor, ...]]:
    """Outputs and gradients by the reference and by the fast path."""
    found = []
    for path in ("reference", "fast"):
        learned = None if layout is None else draw(layout, 1).requires_grad_()
        last = Aware() if with_last else None
        if tokens:
            outputs = tuple(image.encode_tokens(PIXELS, learned, path=path))  # type: ignore[arg-type]
        else:
            outputs = (image.encode(PIXELS, learned, last=last, path=path),)  # type: ignore[arg-type]
        wanted = [t for t in (learned, last.mix if last is not None else None) if t is not None]
        gradients: tuple[torch.Tensor, ...] = ()
        if wanted and any(one.numel() for one in wanted):
            total = sum(((out * draw(tuple(out.shape), 2)).sum() for out in outputs), torch.zeros(()))
            gradients = torch.autograd.grad(total, wanted, allow_unused=True, materialize_grads=True)
        found.append((*outputs, *gradients))
    return found


def assert_same(found: list[tuple[torch.Tensor, ...]], *, gradients: int) -> None:
    reference, fast = found
    assert len(reference) == len(fast)
    for one, other in zip(reference, fast, strict=True):
        torch.testing.assert_close(other, one, rtol=0, atol=1e-12)
    for one in reference[len(reference) - gradients :]:
        assert float(one.norm()) > 1e-3  # a gradient of nothing proves nothing


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", TOWERS)
def test_features_and_gradients(kind: str, layout: str) -> None:
    image, shape = tower(TOWERS[kind]), LAYOUTS[layout]
    assert image.fast_refusal is None
    assert_same(both(image, shape), gradients=int(shape is not None and shape[-2] > 0))


@pytest.mark.parametrize("layout", LAYOUTS)
def test_quick_gelu(layout: str) -> None:
    shape = LAYOUTS[layout]
    assert_same(both(tower({}, quick_gelu=True), shape), gradients=int(shape is not None and shape[-2] > 0))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["plain", "avg"])
def test_tokens_of_the_last_block(kind: str, layout: str) -> None:
    shape = LAYOUTS[layout]
    found = both(tower(TOWERS[kind]), shape, with_last=True)
    assert_same(found, gradients=1 + int(shape is not None and shape[-2] > 0 and "all" not in layout))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["plain", "avg", "final_ln_after_pool"])
def test_patch_features(kind: str, layout: str) -> None:
    shape = LAYOUTS[layout]
    found = both(tower(TOWERS[kind]), shape, tokens=True)
    assert found[1][1].shape == (B, PATCHES, 16)
    assert_same(found, gradients=int(shape is not None and shape[-2] > 0))


@pytest.mark.parametrize("with_last", [False, True])
@pytest.mark.parametrize("layout", ["none", "shallow", "one layer for each"])
def test_a_tower_of_one_block(layout: str, with_last: bool) -> None:
    assert_same(both(tower({}, layers=1), LAYOUTS[layout], with_last=with_last), gradients=int(with_last))


def test_without_gradients_it_is_the_same() -> None:
    image, learned = tower({}, quick_gelu=True), draw((2, 4, WIDTH), 1)
    with torch.no_grad():
        plain = image.encode(PIXELS, learned, path="fast")
    assert torch.equal(plain, image.encode(PIXELS, learned.requires_grad_(), path="fast").detach())


@pytest.mark.parametrize(
    ("layout", "with_last", "rows"),
    [
        ("none", False, [17, 17, 1]),
        ("shallow", False, [21, 21, 1]),
        ("two layers", False, [17, 21, 1]),  # what is replaced next is a key only
        ("all layers", False, [17, 17, 1]),
        ("shallow", True, [21, 17, 1]),
    ],
)
def test_what_is_not_read_is_not_computed(layout: str, with_last: bool, rows: list[int]) -> None:
    image, shape = tower({}), LAYOUTS[layout]
    seen: list[int] = []
    for block in image.visual.transformer.resblocks:  # type: ignore[union-attr]
        block.mlp.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
        block.mlp.c_fc.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].shape[1]))
    learned = None if shape is None else draw(shape, 1)
    image.encode(PIXELS, learned, last=Aware() if with_last else None)
    assert seen == rows


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        ({"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4}, "pools by attention"),
        ({"qk_norm": True}, "CustomResidualAttentionBlock"),
        ({"block_type": "custom"}, "CustomResidualAttentionBlock"),
    ],
)
def test_towers_for_which_it_is_not_exact(overrides: dict[str, Any], reason: str) -> None:
    image = tower(overrides)
    assert reason in str(image.fast_refusal)
    torch.testing.assert_close(image.encode(PIXELS), image.encode(PIXELS, path="reference"))
    with pytest.raises(PromptError, match=reason):
        image.encode(PIXELS, path="fast")
    error = UnsupportedBackboneError if "attentional_pool" in overrides else PromptError
    with pytest.raises(error):
        image.encode_tokens(PIXELS, path="fast")


def test_other_towers_take_their_own_way() -> None:
    image = tiny_backbone("resnet", precision="fp64").image
    assert "ModifiedResNet" in str(image.fast_refusal)
    with pytest.raises(PromptError, match="ModifiedResNet"):
        image.encode(PIXELS, path="fast")


def test_unknown_path() -> None:
    with pytest.raises(PromptError, match="auto, fast, reference"):
        tower({}).encode(PIXELS, path="quick")  # type: ignore[arg-type]


def test_less_is_kept_for_the_backward_pass() -> None:
    image, kept = tower({}, quick_gelu=True), {}
    for path in ("reference", "fast"):
        storages: dict[int, torch.Tensor] = {}

        def note(tensor: torch.Tensor, storages: dict[int, torch.Tensor] = storages) -> torch.Tensor:
            storages[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            image.encode(PIXELS, draw((2, 4, WIDTH), 1).requires_grad_(), path=path)  # type: ignore[arg-type]
        kept[path] = sum(tensor.untyped_storage().nbytes() for tensor in storages.values())
    assert kept["fast"] < 0.75 * kept["reference"]
