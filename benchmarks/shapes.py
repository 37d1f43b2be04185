"""Towers of published shapes with random weights: what they cost does not depend on what they have learned."""

from __future__ import annotations

from typing import Any

import torch
from open_clip.model import CLIP

from npt_core.clip.backbone import Backbone

VIT_B_16: dict[str, Any] = {
    "embed_dim": 512,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
}
"""OpenAI's ViT-B/16, arXiv 2103.00020, as an open_clip model config."""


def random_clip(shapes: dict[str, Any], seed: int = 0) -> CLIP:
    """Return a frozen CLIP of these shapes in fp32 on the CPU."""
    torch.manual_seed(seed)
    return CLIP(**shapes).eval().requires_grad_(False)


def random_backbone(shapes: dict[str, Any], *, seed: int = 0, device: str = "cpu", precision: str = "fp32") -> Backbone:
    """Return a backbone of these shapes; the same seed gives the same weights."""
    model = random_clip(shapes, seed)
    return Backbone.from_model(model, shapes, name="ViT-B-16 (random)", device=device, precision=precision)
