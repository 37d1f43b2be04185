"""CoOp: context vectors in front of, around or behind the class name are learned, everything else is frozen.

Source: CoOp, arXiv 2109.01134.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
from torch import Tensor, nn

from npt_core.methods.base import MethodConfig, register
from npt_core.methods.parts.context import ContextConfig, ContextMethod, first_context, start_words
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class CoOpConfig(ContextConfig):
    """What the learned context looks like."""

    class_specific: bool = setting(False, doc="One context for each class (CSC) in place of one shared by all.")
    position: Literal["end", "middle", "front"] = setting("end", doc="Where the class name stands in the prompt.")


@register
class CoOp(ContextMethod):
    """Context optimisation, shared or class-specific, with the class name at the end, in the middle or in front."""

    name = "coop"
    title = "CoOp: context optimisation"
    source = "arXiv 2109.01134"
    Config = CoOpConfig
    config: CoOpConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        position = cast("CoOpConfig", config).position
        super().__init__(config, backbone, classes, generator=generator, position=position)
        if self.config.class_specific:
            self.ctx = nn.Parameter(self._one_for_each(generator))

    def _one_for_each(self, generator: torch.Generator) -> Tensor:
        """Return (K, n_ctx, d_text): the same words for every class, or noise of its own, as in the paper."""
        settings = self.config
        if start_words(self.backbone, settings.n_ctx, settings.ctx_init) is not None:
            return self.ctx.detach().expand(self.num_classes, -1, -1).clone()
        own = [first_context(self.backbone, settings.n_ctx, "random", generator) for _ in self.classes]
        return torch.stack(own)

    @classmethod
    def refuses_new_classes(cls, config: MethodConfig) -> str | None:
        """Class-specific contexts belong to the classes they were learned for."""
        if cast("CoOpConfig", config).class_specific:
            return "its context vectors are class-specific, a new name has none"
        return None

    def encode_text(self) -> Tensor:
        """Return (K, d) features of the learned prompts, phrasings averaged."""
        return self.encode_context(self.ctx)
