"""UPT: one small self-attention network makes text context and visual tokens out of the same learned prompt.

Source: UPT, arXiv 2210.07225, its equations. Differs: the shared prompt has a width of its own (the paper's is the text
tower's), and linear maps bring it to the widths of the two towers; the text half is added to a context that starts from
words; no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, MethodConfig, Recipe, register
from npt_core.methods.parts.context import ContextConfig, ContextMethod
from npt_core.methods.parts.layers import Attention, heads_for, linear
from npt_core.methods.parts.visual import VisualMethod, token_noise
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class UPTConfig(ContextConfig):
    """The unified prompt and the network on it."""

    n_ctx: int = setting(4, ge=1, le=64, doc="Vectors of the unified prompt that become text context.")
    n_tokens: int = setting(4, ge=1, le=256, doc="Vectors of the unified prompt that become visual tokens.")
    width: int = setting(128, ge=8, le=4096, doc="Width of the unified prompt.")
    prompt_depth: int = setting(1, ge=0, le=256, doc="Image blocks that get the visual tokens afresh; 0: all of them.")


@register
class UPT(ContextMethod, VisualMethod):
    """U' = SA(U) + LN(U), U'' = FFN(LN(U')) + LN(U'); the halves of U'' prompt the two towers."""

    name = "upt"
    title = "UPT: unified prompt tuning"
    source = "arXiv 2210.07225"
    Config = UPTConfig
    recipe = Recipe(epochs_by_shots=((4, 20), (1_000_000, 30)))
    config: UPTConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        settings, width = self.config, self.config.width
        # The network moves the context away from words that it starts from: the maps out of it begin at zero.
        self.unified = nn.Parameter(token_noise((settings.n_ctx + settings.n_tokens,), width, generator, std=1.0))
        self.norm_in, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = Attention(width, width, heads_for(width), generator)
        self.ffn = nn.Sequential(linear(width, 4 * width, generator), nn.GELU(), linear(4 * width, width, generator))
        self.to_text = linear(width, backbone.d_text, generator)
        self.to_vision = linear(width, int(backbone.d_vision or 0), generator)
        nn.init.zeros_(self.to_text.weight)
        nn.init.zeros_(self.to_text.bias)

    def prompts(self) -> tuple[Tensor, Tensor]:
        """Return the text context (n_ctx, d_text) and the visual tokens (n_tokens, d_vision)."""
        unified = self.unified.unsqueeze(0)
        first = self.attention(unified, unified) + self.norm_in(unified)
        normed = self.norm_out(first)
        second = (self.ffn(normed) + normed).squeeze(0)
        text, vision = second.split([self.config.n_ctx, self.config.n_tokens])
        return self.ctx + self.to_text(text), self.to_vision(vision)

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the prompts."""
        return self.encode_context(self.prompts()[0])

    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Return (B, d) features with the visual tokens."""
        tokens = self.prompts()[1]
        depth = self.prompt_depth(self.config.prompt_depth)
        layers = tokens.expand(depth, -1, -1)
        return self.in_pieces(batch, lambda pixels: self.backbone.image.encode(pixels, layers))
