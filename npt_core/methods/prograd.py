"""ProGrad: CoOp that drops the part of its gradient which would unlearn what zero-shot CLIP knows.

Source: ProGrad, arXiv 2205.14865.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from npt_core.methods.base import ImageBatch, MethodOutput, register
from npt_core.methods.coop import CoOp, CoOpConfig
from npt_core.schema import setting


@dataclass(frozen=True)
class ProGradConfig(CoOpConfig):
    """CoOp's settings, and how much of a conflict is removed."""

    conflict: float = setting(1.0, ge=0, le=1, doc="Share of the conflicting part that is taken out; 0 is CoOp.")
    temperature: float = setting(1.0, gt=0, le=100, doc="Softens zero-shot and tuned predictions before the KL.")


def without_conflict(task: Tensor, general: Tensor, share: float) -> Tensor:
    """Return the task gradient less `share` of its part against the general one, where the two disagree.

    Args:
        task: Gradient of the task's loss, any shape.
        general: Gradient of the KL to zero-shot, same shape.
        share: In [0, 1].
    """
    dot = (task * general).sum()
    if float(dot) >= 0:
        return task
    return task - share * dot / general.square().sum() * general


@register
class ProGrad(CoOp):
    """Prompt-aligned gradients: the KL to zero-shot only says which way not to go, it is not minimised."""

    name = "prograd"
    title = "ProGrad: prompt-aligned gradient"
    source = "arXiv 2205.14865"
    Config = ProGradConfig
    free_settings = frozenset({"conflict", "temperature"})
    config: ProGradConfig

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        """Return `kl`, KL(zero-shot || tuned) over the batch (nats, times the temperature squared)."""
        temperature = self.config.temperature
        teacher = self.logits(output.image_features.detach(), self.zero_shot_text()) / temperature
        student = torch.log_softmax(output.logits.float() / temperature, dim=1)
        kl = F.kl_div(student, torch.log_softmax(teacher.float(), dim=1), reduction="batchmean", log_target=True)
        return {"kl": kl * temperature**2}

    def combine_gradients(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        """Return the task's gradients with what goes against zero-shot taken out, parameter by parameter."""
        return [
            without_conflict(task, general, self.config.conflict)
            for task, general in zip(gradients["task"], gradients["kl"], strict=True)
        ]
