"""Zero-shot CLIP: hand-written templates around the class names; the baseline beside every result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from npt_core.errors import Fault
from npt_core.methods.base import Method, MethodConfig, register
from npt_core.methods.parts.templates import default_templates, template_features
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class ZeroShotConfig(MethodConfig):
    """Zero-shot CLIP learns nothing; only the wording can be chosen."""

    templates: tuple[str, ...] = setting(
        (),
        max_length=200,
        doc="Sentences with one {} for the class name, averaged; empty: those that suit the backbone.",
    )

    def conflicts(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        """Every template has one place for the name."""
        for number, template in enumerate(() if "templates" in mistyped else self.templates):
            if template.count("{}") != 1:
                yield Fault(f"templates[{number}]", f"{template!r} must hold {{}} exactly once, where the name goes")


@register
class ZeroShot(Method):
    """Fixed text features from templates."""

    name = "zero_shot"
    title = "Zero-shot CLIP"
    source = "arXiv 2103.00020"
    Config = ZeroShotConfig
    learns = False
    moves_features = False
    parent_refusal = "it learns nothing that a tuning could go on from"
    config: ZeroShotConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        from npt_core.clip.tokens import PromptTable

        super().__init__(config, backbone, classes, generator=generator)
        PromptTable(backbone, classes, 0)  # refuses duplicate and overlong names, as every other method does
        self.templates = self.config.templates or default_templates(backbone)
        self._text: Tensor | None = None

    def encode_text(self) -> Tensor:
        """Return the (K, d) features of the templates, encoded once."""
        if self._text is None:
            self._text = template_features(self.backbone, self.classes, self.templates)
        return self._text
