"""Text that depends on the image: every image brings context vectors of its own, all classes see them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from npt_core.methods.base import ImageBatch, MethodConfig, MethodOutput
from npt_core.methods.parts.context import ContextMethod

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

PROMPTS_AT_ONCE = 1024
"""Prompts (images times phrasings) that are encoded together before memory has had a say."""


class ConditionalMethod(ContextMethod):
    """Base of methods whose context is made for each image.

    Subclasses say what the contexts are; images times classes go through the text tower in chunks.
    """

    text_depends_on_image = True

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        self.chunk = PROMPTS_AT_ONCE

    def fit_memory(self, budget: int, batch_size: int) -> None:
        """Choose how many images' prompts are encoded at once; where one image's are too many, how many of those."""
        appetite = self.appetite()
        images = int(budget / (self.table.N * appetite.each + appetite.shared))
        self.chunk = images * self.table.N if images else appetite.chunk(self.table.N, budget)

    def contexts(self, batch: ImageBatch) -> Tensor:
        """Return the (B, n_ctx, d_text) context vectors of B images."""
        raise NotImplementedError

    def forward(self, batch: ImageBatch, text_features: Tensor | None = None) -> MethodOutput:
        """Classify a batch; text features given from outside belong to no image and are not looked at."""
        image_features = self.encode_image(batch)
        text = self.encode_contexts(self.contexts(batch))
        return MethodOutput(image_features, text, self.logits(image_features, text))

    def encode_contexts(self, ctx: Tensor) -> Tensor:
        """Encode every class under every context.

        Args:
            ctx: (B, n_ctx, d_text).

        Returns:
            (B, K, d) unit-norm. Some images at once, each piece computed again in the backward pass where there are
            several: memory is bounded by `chunk` prompts, whatever the batch.
        """
        chunk = self.chunk or PROMPTS_AT_ONCE
        images = max(1, chunk // self.table.N)
        within = chunk if chunk < self.table.N else None

        def run(some: Tensor) -> Tensor:
            batch = self.table.assemble(some, grouped=True)
            return self.table.pool(self.backbone.text.encode_prompts(batch, chunk=within))

        pieces = torch.split(ctx, images)
        again = torch.is_grad_enabled() and len(pieces) > 1
        return torch.cat(
            [
                checkpoint(run, piece, use_reentrant=False, preserve_rng_state=False) if again else run(piece)
                for piece in pieces
            ]
        )
