"""Tiny random open_clip models for tests: real classes, real tokenizer, no download, a few milliseconds each.

    model, model_cfg = tiny_model("clip", seed=0)      # the open_clip module and the config that built it
    backbone = tiny_backbone("clip", seed=0)           # the same, wrapped as npt_core sees it

Kinds: `clip` (root CLIP, ViT), `quickgelu`, `custom` (CustomTextCLIP, eos pooling, projection with bias, layer scale),
`resnet` (ModifiedResNet image tower),
`siglip` (not causal, pooled at the last position), `coca` (appends a class token: takes no prompts).
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP, CustomTextCLIP
from torch import nn

VISION = {"image_size": 32, "layers": 2, "width": 32, "patch_size": 8, "head_width": 16}
TEXT = {"context_length": 24, "vocab_size": 49408, "width": 32, "heads": 4, "layers": 3}

CONFIGS: dict[str, dict[str, Any]] = {
    "clip": {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT},
    "quickgelu": {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT},
    "custom": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"pool_type": "eos", "eos_id": 49407, "proj_bias": True, "ls_init_value": 0.5},
    },
    "resnet": {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "patch_size": None, "head_width": 16},
        "text_cfg": TEXT,
    },
    "siglip": {
        "embed_dim": 32,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": VISION,
        "text_cfg": TEXT | {"context_length": 16, "no_causal_mask": True, "pool_type": "last", "proj_bias": True},
    },
    "coca": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": VISION | {"attentional_pool": True, "attn_pooler_queries": 4, "attn_pooler_heads": 4},
        "text_cfg": TEXT | {"embed_cls": True},
        "multimodal_cfg": {"context_length": 24, "width": 32, "heads": 4, "layers": 1},
    },
}


def tiny_config(kind: str = "clip", **text_overrides: Any) -> dict[str, Any]:
    """The open_clip model config of `kind`; `text_overrides` go to its text tower."""
    config = deepcopy(CONFIGS[kind])
    config["text_cfg"].update(text_overrides)
    return config


def build(config: dict[str, Any], *, seed: int = 0) -> nn.Module:
    """The open_clip module of a model config, with random weights large enough that every block matters."""
    config = deepcopy(config)
    custom = config.pop("custom_text", False)
    kind = CoCa if "multimodal_cfg" in config else CustomTextCLIP if custom else CLIP
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(**config)
        for name, parameter in model.named_parameters():
            if "resblocks" in name and parameter.ndim == 1:  # biases and norms away from 0 and 1
                parameter.data.add_(0.1 * torch.randn_like(parameter))
            if name.endswith("positional_embedding"):
                parameter.data.mul_(3)
    return model.eval().requires_grad_(False)


def tiny_model(kind: str = "clip", *, seed: int = 0, **text_overrides: Any) -> tuple[nn.Module, dict[str, Any]]:
    """A tiny frozen open_clip model and the config that built it."""
    config = tiny_config(kind, **text_overrides)
    return build(config, seed=seed), config


def tiny_backbone(kind: str = "clip", *, seed: int = 0, name: str | None = None, **kwargs: Any) -> Any:
    """A `Backbone` around a tiny model; `kwargs` go to `Backbone.from_model` (precision, trained_token_ids, ...).

    Text overrides: `text={"context_length": 77}`.
    """
    from npt_core.clip.backbone import Backbone

    model, config = tiny_model(kind, seed=seed, **kwargs.pop("text", {}))
    return Backbone.from_model(model, config, name=name or f"tiny-{kind}", **kwargs)
