"""Deep text prompts: fresh context vectors in the first blocks of the text tower."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from npt_core.methods.parts.context import ContextMethod
from npt_core.methods.parts.visual import token_noise


class DeepContextMethod(ContextMethod):
    """Base of methods with a context in several text blocks: `ctx`, and `deep_ctx` of (depth - 1, n_ctx, d_text)."""

    keeps_rest = True

    def add_deep_context(self, depth: int, generator: torch.Generator) -> None:
        """Make the vectors of the blocks after the first; `depth` counts that one and is cut to the tower's."""
        shape = (min(depth, self.backbone.text.depth) - 1, self.config.n_ctx)
        self.deep_ctx = nn.Parameter(token_noise(shape, self.backbone.d_text, generator))

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the deep prompts."""
        return self.encode_context(self.ctx, self.deep_ctx)
