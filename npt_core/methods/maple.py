"""MaPLe: context vectors in several text blocks, from which linear maps make the tokens of the image blocks.

Source: MaPLe, arXiv 2210.03117.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, MethodConfig, Recipe, register
from npt_core.methods.parts.context import ContextConfig
from npt_core.methods.parts.deep_context import DeepContextMethod
from npt_core.methods.parts.layers import linear
from npt_core.methods.parts.visual import VisualMethod
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class MaPLeConfig(ContextConfig):
    """The coupled prompts."""

    n_ctx: int = setting(
        2, ge=1, le=64, doc="Context vectors in each block; what they leave of 'a photo of a' stands, unlearned."
    )
    prompt_depth: int = setting(9, ge=1, le=256, doc="Blocks with prompts of their own, cut to the smaller tower.")


@register
class MaPLe(DeepContextMethod, VisualMethod):
    """Multi-modal prompt learning: vision tokens are linear in the text context of the same depth."""

    name = "maple"
    title = "MaPLe: multi-modal prompt learning"
    source = "arXiv 2210.03117"
    Config = MaPLeConfig
    recipe = Recipe(lr=0.0035, batch_size=4, epochs_by_shots=((4, 10), (1_000_000, 5)))
    config: MaPLeConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        depth = min(self.prompt_depth(self.config.prompt_depth), backbone.text.depth)
        self.add_deep_context(depth, generator)
        width = int(backbone.d_vision or 0)
        self.couplings = nn.ModuleList([linear(backbone.d_text, width, generator) for _ in range(depth)])

    def visual_tokens(self) -> Tensor:
        """Return (depth, n_ctx, d_vision): one linear map of each depth's text context."""
        contexts = [self.ctx, *self.deep_ctx.unbind(0)]
        return torch.stack([couple(ctx) for couple, ctx in zip(self.couplings, contexts, strict=True)])

    def tokens_in_a_block(self) -> int:
        """Return n_ctx: every context vector makes a token."""
        return self.config.n_ctx

    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Return (B, d) features with the coupled tokens."""
        tokens = self.visual_tokens()
        return self.in_pieces(batch, lambda pixels: self.backbone.image.encode(pixels, tokens))
