"""CPT: neural collapse within clusters of related classes, compact images, text that stays near the frozen one.

Source: CPT, arXiv 2605.11939 (CVPR 2026): the three terms and their weights. The number of clusters, the seed of the
clustering and the centring are not stated there and are ours: about sqrt(K) clusters, a fixed seed, directions seen
from the cluster's mean.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from npt_core.collapse.base import CollapseContext, Regularizer, RegularizerConfig, register
from npt_core.collapse.geometry import EPS, directions
from npt_core.schema import setting

KMEANS_SEED = 0


@dataclass(frozen=True)
class CPTConfig(RegularizerConfig):
    """Weights of the three CPT terms and how classes are grouped."""

    lambda_tetf: float = setting(0.25, ge=0, le=1e6, doc="Weight of the text ETF within each cluster of classes.")
    lambda_cc: float = setting(0.15, ge=0, le=1e6, doc="Weight of images' squared distance to their class's text.")
    lambda_rs: float = setting(0.10, ge=0, le=1e6, doc="Weight of the L1 distance to the frozen text features.")
    clusters: int | None = setting(None, ge=1, le=10_000, doc="Clusters of classes; null: about the root of K.")
    center: bool = setting(True, doc="Look at each cluster's text features from their mean.")
    eps: float = setting(EPS, gt=0, le=1, doc="Distance to the mean below which a class vector has no direction.")
    memory: float = setting(0.9, ge=0, lt=1, doc="Share of a class mean that stays after a batch (learned images).")


def cluster_classes(features: Tensor, clusters: int) -> list[Tensor]:
    """Group K classes by their frozen text features.

    Args:
        features: (K, d).
        clusters: M; cut to K.

    Returns:
        For each cluster the indices of its classes, in rising order; clusters of one class too.
    """
    from sklearn.cluster import KMeans

    numbers = features.detach().double().cpu().numpy()
    found = KMeans(n_clusters=min(clusters, len(numbers)), n_init=10, random_state=KMEANS_SEED).fit_predict(numbers)
    labels = torch.from_numpy(found)
    return [torch.nonzero(labels == m).flatten() for m in range(int(labels.max()) + 1)]


def tetf_loss(text_features: Tensor, clusters: list[Tensor], *, center: bool = True, eps: float = EPS) -> Tensor:
    """Return L_TETF = 1/M sum_m |C_m + (J - I)/(k_m - 1)|_F^2.

    The diagonal of the cosine matrix C_m is constant and contributes k_m; a cluster of one class adds nothing but
    counts in M.

    Args:
        text_features: (K, d), or (B, K, d): averaged over the images.
        clusters: From `cluster_classes`.
        center: Take directions from the cluster's mean.
        eps: See `directions`.
    """
    total = text_features.sum().float() * 0.0
    for members in clusters:
        size = len(members)
        if size < 2:
            continue
        unit = directions(text_features[..., members, :], center=center, eps=eps)
        cosines = unit @ unit.transpose(-1, -2)
        off = 1.0 - torch.eye(size, device=unit.device, dtype=unit.dtype)
        total = total + (cosines + off / (size - 1)).square().sum(dim=(-2, -1)).mean()
    return total / len(clusters)


def compactness_loss(image_features: Tensor, text_features: Tensor, labels: Tensor) -> Tensor:
    """Return L_CC = 1/K' sum_c 1/N_c sum_i |x_ci - t_c|^2 over the K' classes of the batch.

    Args:
        image_features: (B, d) unit-norm.
        text_features: (K, d), or (B, K, d): each image is compared with its own text.
        labels: (B,).
    """
    if text_features.dim() == 3:
        own = text_features[torch.arange(len(labels), device=labels.device), labels]
    else:
        own = text_features[labels]
    distance = (image_features.float() - own.float()).square().sum(dim=-1)
    counts = torch.bincount(labels, minlength=text_features.shape[-2])
    return (distance / counts[labels]).sum() / (counts > 0).sum()


def stay_loss(text_features: Tensor, frozen: Tensor) -> Tensor:
    """Return L_RS = 1/K sum_c |g_c - g_c0|_1 of (K, d) or (B, K, d) text features and (K, d) frozen ones."""
    return (text_features.float() - frozen.float()).abs().sum(dim=-1).mean()


@register
class CPT(Regularizer):
    """Collapse within clusters, compact classes, text near the frozen one; each with its weight."""

    name = "cpt"
    title = "CPT: clustered neural collapse"
    source = "arXiv 2605.11939"
    Config = CPTConfig
    config: CPTConfig

    @cached_property
    def clusters(self) -> list[Tensor]:
        """The classes of each cluster."""
        frozen = self.setup.frozen_text_features
        wanted = self.config.clusters or max(1, round(math.sqrt(len(frozen))))
        return [members.to(frozen.device) for members in cluster_classes(frozen, wanted)]

    @property
    def active(self) -> bool:
        """True unless all three weights are 0."""
        config = self.config
        return config.lambda_tetf > 0 or config.lambda_cc > 0 or config.lambda_rs > 0

    def losses(self, context: CollapseContext) -> Mapping[str, Tensor]:
        """Return the weighted terms `tetf`, `cc` and `rs`."""
        config, text = self.config, context.text_features
        terms: dict[str, Tensor] = {}
        with torch.autocast(device_type=text.device.type, enabled=False):
            if config.lambda_tetf > 0:
                tetf = tetf_loss(text, self.clusters, center=config.center, eps=config.eps)
                terms["tetf"] = config.lambda_tetf * tetf
            if config.lambda_cc > 0:
                terms["cc"] = config.lambda_cc * compactness_loss(context.image_features, text, context.labels)
            if config.lambda_rs > 0:
                terms["rs"] = config.lambda_rs * stay_loss(text, self.setup.frozen_text_features)
        return terms
