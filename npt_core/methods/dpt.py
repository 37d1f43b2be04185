"""DPT with class-aware visual prompts: what the image tower is asked in its last block depends on the class names.

Source: DPT and CAVPT, arXiv 2208.08340, and its released code. Learned tokens stand in every image block but the last.
There the likeliest classes' text features look at class token and patches (whose gradient is cut) and at a few learned
vectors, and become the tokens of that block. Each is trained to tell its class: a K-way head on what it saw, for the
token of the image's own class. Differs: text features are unit-norm; no first epochs on the two modalities apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, MethodConfig, MethodOutput, Recipe, register
from npt_core.methods.parts.context import ContextConfig, ContextMethod
from npt_core.methods.parts.layers import linear
from npt_core.methods.parts.visual import VisualMethod, token_noise
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

D_LOOK = 32
"""Width in which class-aware tokens compare what they look for with what is there, as in the released code."""


@dataclass(frozen=True)
class DPTConfig(ContextConfig):
    """Text context, visual tokens and class-aware tokens."""

    n_tokens: int = setting(4, ge=1, le=256, doc="Learned tokens in each image block that gets some.")
    prompt_depth: int = setting(
        0, ge=0, le=256, doc="Image blocks with learned tokens of their own; 0: all but the last, which never has any."
    )
    candidates: int = setting(10, ge=1, le=1000, doc="Class-aware tokens an image: its likeliest classes, zero-shot.")
    n_keys: int = setting(10, ge=0, le=256, doc="Learned vectors that class-aware tokens see beside the patches.")
    class_aware_weight: float = setting(0.3, ge=0, le=1e6, doc="Weight of the class-aware tokens' own cross-entropy.")


class Look(nn.Module):
    """Attention of one head: softmax(q k^T / sqrt(32)) on the context itself, then one map.

    Args:
        width: Of queries, context and output.
        generator: First values.
    """

    def __init__(self, width: int, generator: torch.Generator) -> None:
        super().__init__()
        self.q = linear(width, D_LOOK, generator, bias=False)
        self.k = linear(width, D_LOOK, generator, bias=False)
        self.v = linear(width, width, generator, bias=False)

    def forward(self, queries: Tensor, context: Tensor) -> Tensor:
        """(B, m, width) and (B, T, width) -> (B, m, width)."""
        weights = torch.softmax(self.q(queries) @ self.k(context).transpose(1, 2) / math.sqrt(D_LOOK), dim=-1)
        seen: Tensor = self.v(weights @ context)
        return seen


@register
class DPT(ContextMethod, VisualMethod):
    """Dual-modality prompt tuning with class-aware visual prompts in the last image block."""

    name = "dpt"
    title = "DPT: dual-modality prompts, class-aware in the image tower"
    source = "arXiv 2208.08340"
    Config = DPTConfig
    free_settings = frozenset({"class_aware_weight"})
    reads_frozen_features = True
    image_depends_on_classes = True
    recipe = Recipe(epochs_by_shots=((4, 20), (1_000_000, 30)))
    config: DPTConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        settings, width = self.config, int(backbone.d_vision or 0)
        depth = min(self.prompt_depth(settings.prompt_depth), int(backbone.image.depth or 1) - 1)
        self.tokens = nn.Parameter(token_noise((depth, settings.n_tokens), width, generator))
        self.to_query = linear(backbone.d, width, generator)
        self.attention = Look(width, generator)
        self.keys = nn.Parameter(token_noise((settings.n_keys,), width, generator))
        self.norm, self.score_norm = nn.LayerNorm(width), nn.LayerNorm(width)
        self.score = linear(width, self.num_classes, generator, bias=False)
        self._aware: tuple[Tensor, Tensor] | None = None

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the learned prompts, phrasings averaged."""
        return self.encode_context(self.ctx)

    def forward(self, batch: ImageBatch, text_features: Tensor | None = None) -> MethodOutput:
        """Classify a batch; the image features depend on the class names."""
        text = self.encode_text() if text_features is None else text_features
        chosen = self.likeliest(batch)  # (B, m)
        own = torch.zeros_like(chosen[:, :1]) if batch.labels is None else batch.labels.unsqueeze(1)
        learned = self.tokens if len(self.tokens) else None  # a tower of one block has none

        def encode(pixels: Tensor, chosen: Tensor, own: Tensor) -> Tensor:
            scores: list[Tensor] = []

            def last(tokens: Tensor) -> Tensor:
                aware, seen = self.class_aware(text[chosen], tokens)
                if batch.labels is not None:  # of the token of each image's own class; of any where it has none
                    place = (chosen == own).int().argmax(dim=1)
                    scores.append(
                        self.score(self.score_norm(seen[torch.arange(len(place), device=place.device), place]))
                    )
                return aware

            features = self.backbone.image.encode(pixels, learned, last=last)
            return torch.cat([features, *(one.to(features.dtype) for one in scores)], dim=1)

        found = self.in_pieces(batch, encode, chosen, own)
        image_features, scores = found[:, : self.backbone.d], found[:, self.backbone.d :]
        self._aware = (scores, (chosen == own).any(dim=1))
        return MethodOutput(image_features, text, self.logits(image_features, text))

    def class_aware(self, text: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, m, d_vision) tokens of m candidate classes for each image, and what each of them saw.

        Args:
            text: (B, m, d) text features of the candidates.
            tokens: (B, 1 + T, d_vision) class token and patches at the input of the last block.
        """
        queries = self.to_query(text.to(self.to_query.weight.dtype))
        context = torch.cat([tokens.detach().to(queries.dtype), self.keys.expand(len(tokens), -1, -1)], dim=1)
        seen = self.attention(queries, context)
        return self.norm(queries + seen), seen

    @torch.no_grad()
    def likeliest(self, batch: ImageBatch) -> Tensor:
        """Return (B, m) classes: the likeliest ones of frozen zero-shot, all in order where there are few."""
        m, size = min(self.config.candidates, self.num_classes), len(batch.pixels) if batch.pixels is not None else 0
        if m == self.num_classes:
            return torch.arange(m, device=self.ctx.device).expand(size, -1)
        return self.logits(self.frozen_features(batch), self.zero_shot_text()).topk(m, dim=1).indices

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        """Return `class_aware`: the K-way cross-entropy of the token of each image's own class.

        Images whose class is not among their candidates take no part.
        """
        if self._aware is None or batch.labels is None:
            return {}
        scores, there = self._aware
        each = F.cross_entropy(scores.float(), batch.labels, reduction="none")
        mean = (each * there).sum() / there.sum().clamp_min(1)
        return {"class_aware": self.config.class_aware_weight * mean}
