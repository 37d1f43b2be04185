"""PromptSRC: prompts in both towers, held to the frozen features, and averaged over the epochs.

Source: PromptSRC, arXiv 2307.06948. From the paper: the two L1 terms (weights 25 for text, 10 for images), the KL of
the logits (weight 1), and Gaussian weights over epochs (mean at 0.75 and width 0.05 of the training, as its 15 and 1
of 20 epochs). Differs: the frozen text comes from the backbone's own few templates, unit features averaged, not from
60 of them ("textual diversity"), averaged before they are normalised.
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
from npt_core.methods.parts.context import ContextConfig
from npt_core.methods.parts.deep_context import DeepContextMethod
from npt_core.methods.parts.visual import VisualMethod, token_noise
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt


@dataclass(frozen=True)
class PromptSRCConfig(ContextConfig):
    """The prompts, and what keeps them from forgetting."""

    n_ctx: int = setting(4, ge=1, le=64, doc="Context vectors in each text block.")
    n_tokens: int = setting(4, ge=1, le=256, doc="Learned tokens in each image block.")
    prompt_depth: int = setting(9, ge=1, le=256, doc="Blocks with prompts of their own, cut to each tower's depth.")
    text_weight: float = setting(25.0, ge=0, le=1e6, doc="Weight of the L1 distance to frozen text features.")
    image_weight: float = setting(10.0, ge=0, le=1e6, doc="Weight of the L1 distance to frozen image features.")
    logit_weight: float = setting(1.0, ge=0, le=1e6, doc="Weight of the KL to the frozen model's predictions.")
    aggregate: bool = setting(True, doc="Ship a Gaussian average of the prompts over epochs, not the last ones.")
    center_share: float = setting(0.75, gt=0, le=1, doc="Where in the training the average weighs most.")
    width_share: float = setting(0.05, gt=0, le=1, doc="Standard deviation of the average, as a share of the training.")


@register
class PromptSRC(DeepContextMethod, VisualMethod):
    """Self-regulating prompts, independent in the two towers."""

    name = "promptsrc"
    title = "PromptSRC: self-regulating prompts"
    source = "arXiv 2307.06948"
    reads_frozen_features = True
    Config = PromptSRCConfig
    free_settings = frozenset(
        {"text_weight", "image_weight", "logit_weight", "aggregate", "center_share", "width_share"}
    )
    recipe = Recipe(lr=0.0025, batch_size=4, epochs_by_shots=((4, 30), (1_000_000, 20)))
    config: PromptSRCConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        settings = self.config
        self.add_deep_context(settings.prompt_depth, generator)
        layers = self.prompt_depth(settings.prompt_depth)
        self.tokens = nn.Parameter(token_noise((layers, settings.n_tokens), int(backbone.d_vision or 0), generator))
        self._sum: dict[str, Tensor] = {}
        self._weight = 0.0

    def encode_image(self, batch: ImageBatch) -> Tensor:
        """Return (B, d) features with the learned tokens."""
        return self.in_pieces(batch, lambda pixels: self.backbone.image.encode(pixels, self.tokens))

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        """Return `scl_text`, `scl_image` and `scl_logits`, weighted."""
        assert output.text_features is not None  # noqa: S101 - for the type checker
        settings, text = self.config, self.zero_shot_text()
        images = self.frozen_features(batch)
        with torch.no_grad():
            teacher = torch.log_softmax(self.logits(images, text).float(), dim=1)
        student = torch.log_softmax(output.logits.float(), dim=1)
        kl = F.kl_div(student, teacher, reduction="sum", log_target=True) / student.numel()
        return {
            "scl_text": settings.text_weight * F.l1_loss(output.text_features.float(), text),
            "scl_image": settings.image_weight * F.l1_loss(output.image_features.float(), images),
            "scl_logits": settings.logit_weight * kl,
        }

    # --- the average over epochs --------------------------------------------------------------------------------------

    def on_epoch_end(self, epoch: int, epochs: int) -> None:
        """Add this epoch's prompts to the average."""
        if not self.config.aggregate:
            return
        offset = (epoch - self.config.center_share * epochs) / max(self.config.width_share * epochs, 1e-6)
        # Where a training has few epochs, all may be far from the centre: the last one then still counts.
        weight = math.exp(-0.5 * offset * offset) + 1e-6
        for name, value in self.named_parameters():
            before = self._sum.get(name)
            added = weight * value.detach()
            self._sum[name] = added if before is None else before + added
        self._weight += weight

    def on_tuning_end(self, features: Tensor | None, labels: Tensor) -> None:
        """Put the average in the place of the last prompts."""
        if self._weight > 0:
            with torch.no_grad():
                for name, value in self.named_parameters():
                    value.copy_(self._sum[name] / self._weight)

    def training_state(self) -> Mapping[str, Tensor]:
        """Return the running average."""
        return {**self._sum, "weight": torch.tensor(self._weight, dtype=torch.float64)}

    def load_training_state(self, state: Mapping[str, Tensor]) -> None:
        """Take the running average back."""
        device = self.ctx.device
        self._sum = {name: value.to(device) for name, value in state.items() if name != "weight"}
        self._weight = float(state["weight"])
