"""APT: the context looks at the image's patches through cross-attention before it is read.

Source: "Adaptive Prompt Tuning: Vision Guided Prompt Tuning with Cross-Attention for Fine-Grained Few-Shot Learning",
arXiv 2412.14640. The exact layers were not available to us: ours is one pre-norm cross-attention block with a residual,
whose last map starts at zero, so that tuning starts from CoOp. It moves the context before the text tower reads it;
summaries of the paper say that its queries are the tower's outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.errors import ConfigError
from npt_core.methods.base import ImageBatch, ImageInput, MethodConfig, Recipe, register
from npt_core.methods.parts.conditional import ConditionalMethod
from npt_core.methods.parts.context import ContextConfig
from npt_core.methods.parts.layers import Attention, heads_for
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class APTConfig(ContextConfig):
    """The context and how it attends."""

    d_head: int = setting(64, ge=1, le=1024, doc="Width of one attention head.")


@register
class APT(ConditionalMethod):
    """ctx(x) = ctx + CrossAttention(LN(ctx), patches of x)."""

    name = "apt"
    title = "APT: vision-guided prompts by cross-attention"
    source = "arXiv 2412.14640"
    Config = APTConfig
    image_input = ImageInput.TOKENS
    recipe = Recipe(epochs_by_shots=((4, 20), (1_000_000, 30)))
    config: APTConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        settings = self.config
        self.norm = nn.LayerNorm(backbone.d_text)
        heads = heads_for(backbone.d_text, settings.d_head)
        self.attention = Attention(backbone.d_text, backbone.d, heads, generator)
        nn.init.zeros_(self.attention.out.weight)
        nn.init.zeros_(self.attention.out.bias)

    def contexts(self, batch: ImageBatch) -> Tensor:
        """Return the (B, n_ctx, d_text) contexts after a look at (B, T, d) patch features."""
        if batch.tokens is None:
            raise ConfigError(f"Method {self.name!r} works on token features and none were given.")
        size = len(batch.tokens)
        queries = self.norm(self.ctx).expand(size, -1, -1)
        shifted: Tensor = self.ctx + self.attention(queries, batch.tokens.to(self.ctx.dtype))
        return shifted
