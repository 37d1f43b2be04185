"""VPT on CLIP: learned tokens in the image tower, the text side as it is.

Source: VPT, arXiv 2203.12119. Differs: the head is CLIP's own text features, so that nothing but the tokens is learned
and new class names work; tokens stand behind the patches and pass the input norm, as in MaPLe's code; no dropout.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, MethodConfig, Recipe, register
from npt_core.methods.parts.context import context_lr
from npt_core.methods.parts.visual import VisualMethod, token_noise
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class VPTConfig(MethodConfig):
    """How many tokens, and where."""

    n_tokens: int = setting(8, ge=1, le=256, doc="Learned tokens in each block that gets some.")
    prompt_depth: int = setting(
        0, ge=0, le=256, doc="Blocks with tokens of their own: 1 is VPT-shallow, 0 all of them (VPT-deep)."
    )


@register
class VPT(VisualMethod):
    """Visual prompt tuning, shallow or deep."""

    name = "vpt"
    title = "VPT: visual prompt tuning"
    source = "arXiv 2203.12119"
    Config = VPTConfig
    recipe = Recipe(epochs_by_shots=((4, 20), (1_000_000, 30)))
    config: VPTConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        from npt_core.clip.tokens import PromptTable

        super().__init__(config, backbone, classes, generator=generator)
        PromptTable(backbone, classes, 0)  # refuses duplicate and overlong names, as every other method does
        depth = self.prompt_depth(self.config.prompt_depth)
        width = int(backbone.d_vision or 0)
        self.tokens = nn.Parameter(token_noise((depth, self.config.n_tokens), width, generator))

    @classmethod
    def default_lr(cls, backbone: Backbone, config: MethodConfig) -> float:
        """CoOp's rate, scaled to the backbone's logit scale."""
        return context_lr(backbone, cls.recipe.lr)

    def encode_text(self) -> Tensor:
        """Return the (K, d) features of the hand-written templates, encoded once."""
        return self.zero_shot_text()

    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Return (B, d) features with the learned tokens beside the patches."""
        return self.in_pieces(batch, lambda pixels: self.backbone.image.encode(pixels, self.tokens))
