"""KgCoOp: CoOp whose text features may not go far from those of the hand-written prompt.

Source: KgCoOp, arXiv 2303.13283, its equation. The released code has w (1 - mean cosine), half of that: a weight of 4
here is 8 there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from npt_core.methods.base import ImageBatch, MethodOutput, register
from npt_core.methods.coop import CoOp, CoOpConfig
from npt_core.schema import setting


@dataclass(frozen=True)
class KgCoOpConfig(CoOpConfig):
    """CoOp's settings and the weight of what holds it back."""

    weight: float = setting(
        8.0,
        ge=0,
        le=1e6,
        doc="Weight of the squared distance to the hand-written text features; 4 is the 8 of the released code.",
    )


@register
class KgCoOp(CoOp):
    """CoOp + w mean_k |t_k - t_k0|^2, t_k0 the frozen features of the hand-written prompt."""

    name = "kgcoop"
    title = "KgCoOp: knowledge-guided context optimisation"
    source = "arXiv 2303.13283"
    Config = KgCoOpConfig
    free_settings = frozenset({"weight"})
    config: KgCoOpConfig

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        """Return `knowledge`."""
        assert output.text_features is not None  # noqa: S101 - for the type checker
        distance = (output.text_features.float() - self.zero_shot_text()).square().sum(dim=-1)
        return {"knowledge": self.config.weight * distance.mean()}
