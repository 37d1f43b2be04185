"""Learned image paths: visual tokens in a frozen vision transformer, pictures encoded in chunks that memory allows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from npt_core.errors import ConfigError, UnsupportedBackboneError
from npt_core.methods.base import ImageBatch, ImageInput, Method, MethodConfig
from npt_core.methods.parts.room import BESIDE, kept_bytes_of_picture

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

PIXEL_BATCH = 32
"""Pictures encoded together at most."""


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
        self._picture_bytes: float | None = None
        self.images_at_once = PIXEL_BATCH
        self.images_kept: int | None = None  # of a batch, from forward to backward; None: all, if they are one piece

    def prompt_depth(self, wanted: int) -> int:
        """Return how many blocks of the image tower get fresh tokens: 0 means all of them."""
        depth = int(self.backbone.image.depth or 1)
        return min(wanted, depth) if wanted else depth

    def in_pieces(self, batch: ImageBatch, encode: Callable[..., Tensor], *beside: Tensor) -> Tensor:
        """Encode the pixels of a batch a few pictures at a time.

        Args:
            batch: B pictures.
            encode: (b, 3, H, W) and what is beside them -> (b, ...); computed again in the backward pass for pictures
                that are not kept.
            beside: (B, ...) tensors that are cut like the pictures.
        """
        if batch.pixels is None:
            raise ConfigError(f"Method {self.name!r} works on pixels and none were given.")
        size, at_once = len(batch.pixels), self.images_at_once
        kept = size if self.images_kept is None and size <= at_once else min(size, self.images_kept or 0)
        if torch.is_grad_enabled():
            sizes = [*_equal(kept, PIXEL_BATCH), *_equal(size - kept, at_once)]
        else:
            kept, sizes = size, _equal(size, at_once)
        cut = [torch.split(tensor, sizes) for tensor in (batch.pixels, *beside)]
        found, done = [], 0
        for piece in zip(*cut, strict=True):
            again = done >= kept
            done += len(piece[0])
            found.append(
                checkpoint(encode, *piece, use_reentrant=False, preserve_rng_state=False) if again else encode(*piece)
            )
        return torch.cat(found)

    def picture_bytes(self) -> float:
        """Count what one picture keeps from forward to backward, and what stands beside it."""
        if self._picture_bytes is None:
            self._picture_bytes = BESIDE * kept_bytes_of_picture(self.backbone.image, self.tokens_in_a_block())
        return self._picture_bytes

    def tokens_in_a_block(self) -> int:
        """Return how many learned tokens a block of the image tower has."""
        return int(cast("Any", self.config).n_tokens)

    def fit_memory(self, budget: int, batch_size: int) -> None:
        """Choose how many pictures are kept from forward to backward; the others are computed twice, some at a time."""
        fit = int(budget / self.picture_bytes())
        if fit >= batch_size:
            self.images_kept = batch_size
            return
        self.images_at_once = min(PIXEL_BATCH, max(1, fit // 4))
        self.images_kept = max(0, fit - self.images_at_once)

    @torch.no_grad()
    def frozen_features(self, batch: ImageBatch) -> Tensor:
        """Return the (B, d) features of the frozen tower: those that came with the batch, else encoded here."""
        return self.in_pieces(batch, self.backbone.image.encode) if batch.features is None else batch.features

    def halve_chunk(self) -> bool:
        """Take fewer pictures and fewer prompts at once."""
        fewer_prompts = super().halve_chunk()
        if self.images_at_once <= 1 and not self.images_kept:
            return fewer_prompts
        self.images_at_once = max(1, self.images_at_once // 2)
        self.images_kept = None if self.images_kept is None else self.images_kept // 2
        return True


def _equal(count: int, most: int) -> list[int]:
    """Sizes of as few pieces as hold `count`, none above `most`, as equal as can be."""
    pieces = math.ceil(count / most)
    return [count // pieces + (i < count % pieces) for i in range(pieces)]


def token_noise(count: tuple[int, ...], width: int, generator: torch.Generator, std: float = 0.02) -> Tensor:
    """Return first values of visual tokens: (*count, width) normal noise."""
    return torch.randn(*count, width, generator=generator) * std
