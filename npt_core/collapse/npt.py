"""NPT: text features as a simplex ETF, image class means as the same one.

Source: NPT, arXiv 2306.15955 (KDD 2024), which states the two aims. Its exact loss expressions and weights were not
available to us: the forms below follow from the definition of the simplex ETF and the weights are our own measurements.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from npt_core.collapse.base import CollapseContext, Regularizer, RegularizerConfig, register
from npt_core.collapse.geometry import EPS, directions, mean_squared_deviation
from npt_core.schema import setting


@dataclass(frozen=True)
class NPTConfig(RegularizerConfig):
    """Weights and design points of the two NPT terms."""

    lambda_lmc: float = setting(10.0, ge=0, le=1e6, doc="Weight of language-modality collapse (text features an ETF).")
    lambda_mmi: float = setting(10.0, ge=0, le=1e6, doc="Weight of multi-modality isomorphism (class means the same).")
    center: bool = setting(True, doc="Look at class vectors from their mean, as neural collapse is defined.")
    eps: float = setting(EPS, gt=0, le=1, doc="Distance to the mean below which a class vector has no direction.")
    memory: float = setting(0.9, ge=0, lt=1, doc="Share of a class mean that stays after a batch (learned images).")


def lmc_loss(text_features: Tensor, *, center: bool = True, eps: float = EPS) -> Tensor:
    """Return L_LMC, the mean over pairs of (t_j . t_k + 1/(K-1))^2.

    Args:
        text_features: (K, d) or (B, K, d): the loss of each image's own text features is averaged, since their mean
            can be an ETF while none of them is.
        center: Take directions from the mean of the classes.
        eps: See `directions`.

    Returns:
        Scalar float32; identically 0 for K = 2 with centring.
    """
    return _lmc(directions(text_features, center=center, eps=eps), center=center)


def _lmc(unit: Tensor, *, center: bool) -> Tensor:
    if center and unit.shape[-2] == 2:
        return unit.sum() * 0.0  # two centred vectors are antipodal: nothing to learn, exactly
    return mean_squared_deviation(unit)


def mmi_loss(
    text_features: Tensor,
    class_means: Tensor,
    *,
    labels: Tensor | None = None,
    seen: Tensor | None = None,
    center: bool = True,
    eps: float = EPS,
) -> Tensor:
    """Return L_MMI = 1/K sum_k |mu_k - t_k|^2 / 2 over directions.

    Args:
        text_features: (K, d), or (B, K, d) with `labels`: each class is then compared through its own images' text.
        class_means: (K, d) mean image features.
        labels: (B,) classes of the images; needed for (B, K, d) text features.
        seen: (K,) bool; classes without an image so far take no part. All by default.
        center: Take directions from the mean of the classes.
        eps: See `directions`.

    Returns:
        Scalar float32.
    """
    text = directions(text_features, center=center, eps=eps)
    return _mmi(text, mean_directions(class_means, seen=seen, center=center, eps=eps), labels, seen)


def mean_directions(class_means: Tensor, *, seen: Tensor | None, center: bool, eps: float) -> Tensor:
    """Return (K, d) directions of class means, seen from the mean of those classes that have one."""
    class_means = class_means.float()
    if seen is not None and center:
        class_means, center = class_means - class_means[seen].mean(dim=0), False
    return directions(class_means, center=center, eps=eps)


def _mmi(text: Tensor, means: Tensor, labels: Tensor | None, seen: Tensor | None) -> Tensor:
    if text.dim() == 2:
        per_class = (means - text).square().sum(dim=-1) / 2
        return per_class.mean() if seen is None else per_class[seen].mean()
    if labels is None:
        raise ValueError("image-conditional text features (B, K, d) need the labels of the B images")
    own_text = text[torch.arange(len(labels), device=text.device), labels]
    per_image = (means[labels] - own_text).square().sum(dim=-1) / 2
    counts = torch.bincount(labels, minlength=means.shape[0])
    return (per_image / counts[labels]).sum() / (counts > 0).sum()


@register
class NPT(Regularizer):
    """Language-modality collapse and multi-modality isomorphism, each with its weight."""

    name = "npt"
    title = "NPT: neural-collapse-anchored prompt tuning"
    source = "arXiv 2306.15955"
    Config = NPTConfig
    config: NPTConfig
    _fixed: tuple[Tensor, Tensor] | None = None

    @property
    def active(self) -> bool:
        """True unless both weights are 0."""
        return self.config.lambda_lmc > 0 or self.config.lambda_mmi > 0

    def losses(self, context: CollapseContext) -> Mapping[str, Tensor]:
        """Return the weighted terms `lmc` and `mmi`."""
        center, eps = self.config.center, self.config.eps
        terms: dict[str, Tensor] = {}
        with torch.autocast(device_type=context.text_features.device.type, enabled=False):
            text = directions(context.text_features, center=center, eps=eps)
            if self.config.lambda_lmc > 0:
                terms["lmc"] = self.config.lambda_lmc * _lmc(text, center=center)
            if self.config.lambda_mmi > 0:
                means = self._mean_directions(context)
                terms["mmi"] = self.config.lambda_mmi * _mmi(text, means, context.labels, context.seen)
        return terms

    def _mean_directions(self, context: CollapseContext) -> Tensor:
        """Directions of the class means; on a frozen image path they are the same tensor in every step."""
        if self._fixed is None or self._fixed[0] is not context.class_means or context.class_means.requires_grad:
            means = mean_directions(
                context.class_means, seen=context.seen, center=self.config.center, eps=self.config.eps
            )
            self._fixed = (context.class_means, means)
        return self._fixed[1]
