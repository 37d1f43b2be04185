"""MaPLe: context vectors in several text blocks, from which linear maps make the tokens of the image blocks.

Source: MaPLe, arXiv 2210.03117.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, MethodConfig, Recipe, context_lr, register
from npt_core.methods.coop import first_context
from npt_core.methods.parts.layers import linear
from npt_core.methods.parts.visual import VisualMethod, token_noise
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class MaPLeConfig(MethodConfig):
    """The coupled prompts."""

    n_ctx: int = setting(2, ge=1, le=64, doc="Context vectors in each block.")
    ctx_init: str = setting(
        "auto",
        max_length=200,
        doc="Words the first context starts from; 'random': noise; 'auto': known words that fill n_ctx, else noise.",
    )
    prompt_depth: int = setting(9, ge=1, le=256, doc="Blocks with prompts of their own, cut to the smaller tower.")


@register
class MaPLe(VisualMethod):
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
        from npt_core.clip.tokens import PromptTable

        super().__init__(config, backbone, classes, generator=generator)
        settings = self.config
        depth = min(self.prompt_depth(settings.prompt_depth), backbone.text.depth)
        self.table = PromptTable(backbone, classes, settings.n_ctx)
        self.ctx = nn.Parameter(first_context(backbone, settings.n_ctx, settings.ctx_init, generator))
        self.deep_ctx = nn.Parameter(token_noise((depth - 1, settings.n_ctx), backbone.d_text, generator))
        width = int(backbone.d_vision or 0)
        self.couplings = nn.ModuleList([linear(backbone.d_text, width, generator) for _ in range(depth)])

    @classmethod
    def default_lr(cls, backbone: Backbone) -> float:
        """MaPLe's rate, scaled to the backbone's logit scale."""
        return context_lr(backbone, cls.recipe.lr)

    def visual_tokens(self) -> Tensor:
        """Return (depth, n_ctx, d_vision): one linear map of each depth's text context."""
        contexts = [self.ctx, *self.deep_ctx.unbind(0)]
        return torch.stack([couple(ctx) for couple, ctx in zip(self.couplings, contexts, strict=True)])

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the deep prompts, phrasings averaged."""
        deep = self.deep_ctx if len(self.deep_ctx) else None
        batch = self.table.assemble(self.ctx, deep_ctx=deep)
        return self.table.pool(self.backbone.text.encode_prompts(batch, chunk=self.chunk))

    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Return (B, d) features with the coupled tokens."""
        tokens = self.visual_tokens()
        return self.in_pieces(batch, lambda pixels: self.backbone.image.encode(pixels, tokens))
