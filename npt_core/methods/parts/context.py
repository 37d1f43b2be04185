"""Learned context in front of the class names: what CoOp and everything that builds on it have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from npt_core.methods.base import Method, MethodConfig
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt, Position

REFERENCE_LOGIT_SCALE = 100.0


def context_lr(backbone: Backbone, lr: float) -> float:
    """Scale a learning rate of learned text contexts to a backbone, never down.

    Published rates belong to CLIP towers with a logit scale of 100. The gradient of the cross-entropy carries that
    scale as a factor, so that a tower of scale 10 moves ten times less in each step of plain SGD. Ours; measured in
    docs/decisions/.

    Args:
        backbone: Its logit scale is read.
        lr: The rate for the published towers.
    """
    return lr * max(1.0, REFERENCE_LOGIT_SCALE / backbone.logit_scale)


START_TEXTS = ("a photo of a", "a picture of a", "an image of a")


def start_text(backbone: Backbone, n_ctx: int) -> str | None:
    """Return the words the context starts from: the first known ones that fill it exactly, or None for noise."""
    for text in START_TEXTS:
        trained = backbone.trained_token_ids
        known = trained is None or not backbone.tokenizer.unseen_words(text, trained)
        if known and len(backbone.tokenizer.encode(text)) == n_ctx:
            return text
    return None


def start_words(backbone: Backbone, n_ctx: int, ctx_init: str) -> str | None:
    """Return the words that the setting `ctx_init` asks for, None for noise."""
    return {"auto": start_text(backbone, n_ctx), "random": None}.get(ctx_init, ctx_init)


def first_context(backbone: Backbone, n_ctx: int, ctx_init: str, generator: torch.Generator) -> Tensor:
    """Return the first values of a shared context, as the setting `ctx_init` says: (n_ctx, d_text) float32."""
    from npt_core.clip.tokens import init_ctx

    return init_ctx(backbone, n_ctx, start_words(backbone, n_ctx, ctx_init), generator).float().contiguous()


@dataclass(frozen=True)
class ContextConfig(MethodConfig):
    """How the context begins."""

    n_ctx: int = setting(4, ge=1, le=64, doc="Number of learned context vectors (CoOp: 4 from words, or 16).")
    ctx_init: str = setting(
        "auto",
        max_length=200,
        doc="Words the context starts from; 'random': noise; 'auto': 'a photo of a' where it fills n_ctx, else noise.",
    )


class ContextMethod(Method):
    """Base of methods that learn a context shared by all classes: `ctx`, (n_ctx, d_text), and the prompts around it."""

    config: ContextConfig

    def __init__(
        self,
        config: MethodConfig,
        backbone: Backbone,
        classes: Sequence[ClassPrompt],
        *,
        generator: torch.Generator,
        position: Position = "end",
    ) -> None:
        from npt_core.clip.tokens import PromptTable

        super().__init__(config, backbone, classes, generator=generator)
        self.table = PromptTable(backbone, classes, self.config.n_ctx, position)
        self.ctx = nn.Parameter(first_context(backbone, self.config.n_ctx, self.config.ctx_init, generator))

    @classmethod
    def default_lr(cls, backbone: Backbone) -> float:
        """The paper's rate, scaled to the backbone's logit scale; exactly the paper's on the published towers."""
        return context_lr(backbone, cls.recipe.lr)

    def encode_context(self, ctx: Tensor, deep_ctx: Tensor | None = None) -> Tensor:
        """Return (K, d) features of the prompts with this context, phrasings averaged.

        Args:
            ctx: (n_ctx, d_text), or (K, n_ctx, d_text) for each class.
            deep_ctx: (depth - 1, n_ctx, d_text) for later blocks; None, or none of them, for the first block alone.
        """
        deep = deep_ctx if deep_ctx is not None and len(deep_ctx) else None
        batch = self.table.assemble(ctx, deep_ctx=deep)
        return self.table.pool(self.backbone.text.encode_prompts(batch, chunk=self.chunk))
