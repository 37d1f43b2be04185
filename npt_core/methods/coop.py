"""CoOp: context vectors in front of, around or behind the class name are learned, everything else is frozen.

Source: CoOp, arXiv 2109.01134.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from npt_core.methods.base import Method, MethodConfig, context_lr, register
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

START_TEXTS = ("a photo of a", "a picture of a", "an image of a")


def start_text(backbone: Backbone, n_ctx: int) -> str | None:
    """Return the words the context starts from: the first known ones that fill it exactly, or None for noise."""
    for text in START_TEXTS:
        trained = backbone.trained_token_ids
        known = trained is None or not backbone.tokenizer.unseen_words(text, trained)
        if known and len(backbone.tokenizer.encode(text)) == n_ctx:
            return text
    return None


def first_context(backbone: Backbone, n_ctx: int, ctx_init: str, generator: torch.Generator) -> Tensor:
    """Return the first values of a shared context, as the setting `ctx_init` says: (n_ctx, d_text) float32."""
    from npt_core.clip.tokens import init_ctx

    words = {"auto": start_text(backbone, n_ctx), "random": None}.get(ctx_init, ctx_init)
    return init_ctx(backbone, n_ctx, words, generator).float().contiguous()


@dataclass(frozen=True)
class CoOpConfig(MethodConfig):
    """What the learned context looks like."""

    n_ctx: int = setting(4, ge=1, le=64, doc="Number of learned context vectors (CoOp: 4 from words, or 16).")
    ctx_init: str = setting(
        "auto",
        max_length=200,
        doc="Words the context starts from; 'random': noise; 'auto': 'a photo of a' where it fills n_ctx, else noise.",
    )
    class_specific: bool = setting(False, doc="One context for each class (CSC) in place of one shared by all.")
    position: Literal["end", "middle", "front"] = setting("end", doc="Where the class name stands in the prompt.")


@register
class CoOp(Method):
    """Context optimisation, shared or class-specific, with the class name at the end, in the middle or in front."""

    name = "coop"
    title = "CoOp: context optimisation"
    source = "arXiv 2109.01134"
    Config = CoOpConfig
    config: CoOpConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        from npt_core.clip.tokens import PromptTable, init_ctx

        super().__init__(config, backbone, classes, generator=generator)
        settings = self.config
        self.table = PromptTable(backbone, classes, settings.n_ctx, settings.position)
        words = {"auto": start_text(backbone, settings.n_ctx), "random": None}.get(settings.ctx_init, settings.ctx_init)
        ctx = init_ctx(backbone, settings.n_ctx, words, generator).float()
        if settings.class_specific:
            ctx = ctx.expand(self.num_classes, -1, -1).clone()
            if words is None:  # each class starts from noise of its own, as in the paper
                ctx = torch.stack([init_ctx(backbone, settings.n_ctx, None, generator) for _ in self.classes]).float()
        self.ctx = nn.Parameter(ctx.contiguous())  # (n_ctx, d_text) or (K, n_ctx, d_text)

    @classmethod
    def default_lr(cls, backbone: Backbone) -> float:
        """CoOp's rate, scaled to backbones of another size; exactly CoOp's on the published towers."""
        return context_lr(backbone, cls.recipe.lr)

    def new_classes_refusal(self) -> str | None:
        """Class-specific contexts belong to the classes they were learned for."""
        if self.config.class_specific:
            return "its context vectors are class-specific, a new name has none"
        return None

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the learned prompts, phrasings averaged."""
        batch = self.table.assemble(self.ctx)
        return self.table.pool(self.backbone.text.encode_prompts(batch, chunk=self.chunk))
