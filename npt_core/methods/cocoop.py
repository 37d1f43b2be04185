"""CoCoOp: a small network turns each image into a shift of the learned context.

Source: CoCoOp, arXiv 2203.05557. Differs: images and classes go through the text tower together, in chunks, where the
paper takes one image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.errors import ConfigError
from npt_core.methods.base import ImageBatch, MethodConfig, Recipe, register
from npt_core.methods.parts.conditional import ConditionalMethod
from npt_core.methods.parts.context import ContextConfig
from npt_core.methods.parts.layers import linear
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class CoCoOpConfig(ContextConfig):
    """The context and the network that shifts it."""

    reduction: int = setting(16, ge=1, le=1024, doc="The meta-net's hidden width is d divided by this.")


@register
class CoCoOp(ConditionalMethod):
    """ctx(x) = ctx + h(x), with h: d -> d/16 -> d_text."""

    name = "cocoop"
    title = "CoCoOp: conditional context optimisation"
    source = "arXiv 2203.05557"
    Config = CoCoOpConfig
    recipe = Recipe(epochs_by_shots=((4, 20), (1_000_000, 30)))
    config: CoCoOpConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        settings = self.config
        hidden = max(1, backbone.d // settings.reduction)
        self.meta_net = nn.Sequential(
            linear(backbone.d, hidden, generator), nn.ReLU(), linear(hidden, backbone.d_text, generator)
        )

    def contexts(self, batch: ImageBatch) -> Tensor:
        """Return ctx + h(x): (B, n_ctx, d_text)."""
        if batch.features is None:
            raise ConfigError(f"Method {self.name!r} works on image features and none were given.")
        shift = self.meta_net(batch.features.to(self.ctx.dtype))  # (B, d_text)
        shifted: Tensor = self.ctx + shift.unsqueeze(1)
        return shifted
