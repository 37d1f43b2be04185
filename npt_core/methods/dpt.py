"""DPT with class-aware visual prompts: what the image tower is asked in its last block depends on the class names.

Source: DPT and CAVPT, arXiv 2208.08340. The class-aware tokens come from cross-attention of the likeliest classes' text
features to the patches, and are trained to tell the classes apart themselves. Differs: the exact head of that second
loss was not available to us; ours is one linear score for each token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from npt_core.methods.base import ImageBatch, MethodConfig, MethodOutput, Recipe, register
from npt_core.methods.parts.context import ContextConfig, ContextMethod
from npt_core.methods.parts.layers import Attention, heads_for, linear
from npt_core.methods.parts.visual import VisualMethod, token_noise
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class DPTConfig(ContextConfig):
    """Text context, visual tokens and class-aware tokens."""

    n_tokens: int = setting(4, ge=1, le=256, doc="Learned tokens in each image block that gets some.")
    prompt_depth: int = setting(0, ge=0, le=256, doc="Image blocks with tokens of their own; 0: all of them.")
    candidates: int = setting(10, ge=1, le=1000, doc="Class-aware tokens an image: its likeliest classes, zero-shot.")
    class_aware_weight: float = setting(0.3, ge=0, le=1e6, doc="Weight of the class-aware tokens' own cross-entropy.")


@register
class DPT(ContextMethod, VisualMethod):
    """Dual-modality prompt tuning with class-aware visual prompts in the last image block."""

    name = "dpt"
    title = "DPT: dual-modality prompts, class-aware in the image tower"
    source = "arXiv 2208.08340"
    Config = DPTConfig
    image_depends_on_classes = True
    recipe = Recipe(epochs_by_shots=((4, 20), (1_000_000, 30)))
    config: DPTConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        settings, width = self.config, int(backbone.d_vision or 0)
        depth = self.prompt_depth(settings.prompt_depth)
        self.tokens = nn.Parameter(token_noise((depth, settings.n_tokens), width, generator))
        self.to_query = linear(backbone.d, width, generator)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, width, heads_for(width), generator)
        self.score = linear(width, 1, generator)
        self._aware: tuple[Tensor, Tensor] | None = None

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the learned prompts, phrasings averaged."""
        return self.encode_context(self.ctx)

    def forward(self, batch: ImageBatch, text_features: Tensor | None = None) -> MethodOutput:
        """Classify a batch; the image features depend on the class names."""
        text = self.encode_text() if text_features is None else text_features
        chosen = self.likeliest(batch)  # (B, m)

        def encode(pixels: Tensor, chosen: Tensor) -> Tensor:
            scores: list[Tensor] = []

            def last(tokens: Tensor) -> Tensor:
                aware = self.class_aware(text[chosen], tokens)
                scores.append(self.score(aware).squeeze(-1))
                return aware

            features = self.backbone.image.encode(pixels, self.tokens, last=last)
            return torch.cat([features, scores[0].to(features.dtype)], dim=1)

        found = self.in_pieces(batch, encode, chosen)
        image_features, scores = found[:, : self.backbone.d], found[:, self.backbone.d :]
        self._aware = (scores, chosen)
        return MethodOutput(image_features, text, self.logits(image_features, text))

    def class_aware(self, text: Tensor, tokens: Tensor) -> Tensor:
        """Return (B, m, d_vision) tokens of m candidate classes for each image.

        Args:
            text: (B, m, d) text features of the candidates.
            tokens: (B, 1 + T, d_vision) class token and patches at the input of the last block.
        """
        queries = self.to_query(text.to(self.to_query.weight.dtype))
        looked: Tensor = queries + self.attention(self.norm(queries), tokens.to(queries.dtype))
        return looked

    @torch.no_grad()
    def likeliest(self, batch: ImageBatch) -> Tensor:
        """Return (B, m) classes: the likeliest ones of frozen zero-shot, all in order where there are few.

        While tuning, an image's own class is always among them.
        """
        m, size = min(self.config.candidates, self.num_classes), len(batch.pixels) if batch.pixels is not None else 0
        if m == self.num_classes:
            return torch.arange(m, device=self.ctx.device).expand(size, -1)
        features = self.in_pieces(batch, self.backbone.image.encode)
        chosen = self.logits(features, self.zero_shot_text()).topk(m, dim=1).indices
        if batch.labels is not None:
            missing = (chosen != batch.labels.unsqueeze(1)).all(dim=1)
            chosen[missing, -1] = batch.labels[missing]
        return chosen

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        """Return `class_aware`: the cross-entropy of the class-aware tokens' own scores among the candidates."""
        if self._aware is None or batch.labels is None:
            return {}
        scores, chosen = self._aware
        target = (chosen == batch.labels.unsqueeze(1)).int().argmax(dim=1)
        return {"class_aware": self.config.class_aware_weight * F.cross_entropy(scores.float(), target)}
