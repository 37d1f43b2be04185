"""Learned context in front of the class names: what CoOp and everything that builds on it have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, cast

import torch
from torch import Tensor, nn

from npt_core.methods.base import REFERENCE_LOGIT_SCALE, Method, MethodConfig
from npt_core.methods.parts.room import Appetite
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt, Position


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


def known_start_texts(backbone: Backbone) -> list[str]:
    """Return the texts to start from whose words the backbone was trained on."""
    trained = backbone.trained_token_ids
    return [text for text in START_TEXTS if trained is None or not backbone.tokenizer.unseen_words(text, trained)]


def start_text(backbone: Backbone, n_ctx: int) -> str | None:
    """Return the words the context starts from: the first known ones that fill it exactly, or None for noise."""
    return next((text for text in known_start_texts(backbone) if len(backbone.tokenizer.encode(text)) == n_ctx), None)


def start_words(backbone: Backbone, n_ctx: int, ctx_init: str) -> str | None:
    """Return the words that the setting `ctx_init` asks for, None for noise."""
    if ctx_init == "auto":
        return start_text(backbone, n_ctx)
    return None if ctx_init == "random" else ctx_init


def split_start(backbone: Backbone, n_ctx: int, ctx_init: str) -> tuple[str | None, str]:
    """Return the words a context starts from, and those that stand unlearned between it and the class name.

    "a photo of a" begins with the words that fill 2 vectors, "a photo"; "of a" then stays where it is. This is how
    MaPLe's and PromptSRC's released prompts begin (arXiv 2210.03117, 2307.06948). Longer contexts, and words of the
    user's own, have nothing behind them.
    """
    words = start_words(backbone, n_ctx, ctx_init)
    if words is not None or ctx_init != "auto":
        return words, ""
    for text in known_start_texts(backbone):
        parts = text.split()
        for cut in range(1, len(parts)):
            if len(backbone.tokenizer.encode(" ".join(parts[:cut]))) == n_ctx:
                return " ".join(parts[:cut]), " ".join(parts[cut:])
    return None, ""


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

    keeps_rest: ClassVar[bool] = False
    """Whether words of the start that do not fit into the context stand behind it, see `split_start`."""

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
        n_ctx, ctx_init = self.config.n_ctx, self.config.ctx_init
        behind = ""
        if self.keeps_rest:
            words, behind = split_start(backbone, n_ctx, ctx_init)
            ctx_init = words or "random"
        self.table = PromptTable(backbone, classes, n_ctx, position, lead=behind)
        self.ctx = nn.Parameter(first_context(backbone, n_ctx, ctx_init, generator))

    @classmethod
    def default_lr(cls, backbone: Backbone, config: MethodConfig) -> float:
        """The paper's rate; where one context starts from words, scaled to the backbone's logit scale.

        A context that starts from noise, or from which the image's tokens are made, goes astray at the scaled rate.
        Measured in docs/decisions/. On the published towers it is the paper's rate in every case.
        """
        settings = cast("ContextConfig", config)
        from_words = start_words(backbone, settings.n_ctx, settings.ctx_init) is not None
        return context_lr(backbone, cls.recipe.lr) if from_words and not cls.learns_image_path else cls.recipe.lr

    def fit_memory(self, budget: int, batch_size: int) -> None:
        """Choose the chunk from what a few of the prompts take; learned image paths have half if they need it."""
        appetite = self.appetite()
        room = max(budget // 2, budget - math.ceil(batch_size * self.picture_bytes()))
        self.chunk = appetite.chunk(self.table.N, room)
        taken = min(room, math.ceil(appetite.shared + self.table.N * appetite.each))
        super().fit_memory(budget - taken, batch_size)

    def appetite(self) -> Appetite:
        """Say what the prompts of one context take of memory."""
        return Appetite.of(self.backbone.text, self.table.assemble(self.ctx))

    def encode_context(self, ctx: Tensor, deep_ctx: Tensor | None = None) -> Tensor:
        """Return (K, d) features of the prompts with this context, phrasings averaged.

        Args:
            ctx: (n_ctx, d_text), or (K, n_ctx, d_text) for each class.
            deep_ctx: (depth - 1, n_ctx, d_text) for later blocks; None, or none of them, for the first block alone.
        """
        deep = deep_ctx if deep_ctx is not None and len(deep_ctx) else None
        batch = self.table.assemble(ctx, deep_ctx=deep)
        return self.table.pool(self.backbone.text.encode_prompts(batch, chunk=self.chunk))
