"""Learned image paths: visual tokens in a frozen vision transformer, pictures encoded in chunks that memory allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from npt_core.errors import ConfigError, UnsupportedBackboneError
from npt_core.methods.base import ImageBatch, ImageInput, Method, MethodConfig

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

PIXEL_BATCH = 32
"""Pictures encoded together at first; what does not fit is halved."""


class VisualMethod(Method):
    """Base of methods that put tokens into the image tower. They need pixels, at tuning and at serving."""

    image_input = ImageInput.PIXELS
    learns_image_path = True

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        if backbone.image.prompt_refusal is not None:
            raise UnsupportedBackboneError(
                f"Method {self.name!r} puts learned tokens into the image tower, and backbone {backbone.name!r} takes "
                f"none: {backbone.image.prompt_refusal}. Choose a ViT backbone, or a method on the text side."
            )
        self.images_at_once = PIXEL_BATCH

    def prompt_depth(self, wanted: int) -> int:
        """Return how many blocks of the image tower get fresh tokens: 0 means all of them."""
        depth = int(self.backbone.image.depth or 1)
        return min(wanted, depth) if wanted else depth

    def in_pieces(self, batch: ImageBatch, encode: Callable[..., Tensor], *beside: Tensor) -> Tensor:
        """Encode the pixels of a batch a few pictures at a time.

        Args:
            batch: B pictures.
            encode: (b, 3, H, W) and what is beside them -> (b, ...); computed again in the backward pass where there
                are several pieces.
            beside: (B, ...) tensors that are cut like the pictures.
        """
        if batch.pixels is None:
            raise ConfigError(f"Method {self.name!r} works on pixels and none were given.")
        cut = [torch.split(tensor, self.images_at_once) for tensor in (batch.pixels, *beside)]
        pieces = list(zip(*cut, strict=True))
        again = torch.is_grad_enabled() and len(pieces) > 1
        return torch.cat(
            [
                checkpoint(encode, *piece, use_reentrant=False, preserve_rng_state=False) if again else encode(*piece)
                for piece in pieces
            ]
        )

    @torch.no_grad()
    def frozen_features(self, batch: ImageBatch) -> Tensor:
        """Return the (B, d) features of the frozen tower: those that came with the batch, else encoded here."""
        return self.in_pieces(batch, self.backbone.image.encode) if batch.features is None else batch.features

    def halve_chunk(self) -> bool:
        """Take fewer pictures and fewer prompts at once."""
        fewer_prompts = super().halve_chunk()
        if self.images_at_once <= 1:
            return fewer_prompts
        self.images_at_once //= 2
        return True


def token_noise(count: tuple[int, ...], width: int, generator: torch.Generator, std: float = 0.02) -> Tensor:
    """Return first values of visual tokens: (*count, width) normal noise."""
    return torch.randn(*count, width, generator=generator) * std
