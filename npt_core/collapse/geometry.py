"""Neural-collapse geometry of text and image features: the numbers shown to users, and the pieces of the losses.

Source: neural collapse, Papyan, Han, Donoho, PNAS 2020 (centring, equinorm, equiangularity, duality, within-class
term); NPT, arXiv 2306.15955 (text-to-image representations). The exact forms are ours, see docs/method.md.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

EPS = 1e-3
"""Norm below which a centred feature no longer counts as a direction: it bounds the gradient at 1/EPS."""

ROWS = 512
"""Classes whose angles with all others are measured at once."""

NUMBERS = (
    "equiangularity_mean",
    "equiangularity_max",
    "equinorm",
    "image_equiangularity_mean",
    "image_equiangularity_max",
    "image_equinorm",
    "duality",
    "within_class",
    "lmc",
    "lmc_excess",
    "mmi",
    "bias_spread",
)
"""What `geometry` returns."""


def directions(features: Tensor, *, center: bool = True, eps: float = EPS) -> Tensor:
    """Return unit directions of class vectors, seen from their mean unless `center` is False.

    Args:
        features: (..., K, d).
        center: Subtract the mean over classes first.
        eps: Norms are clamped from below at this.

    Returns:
        (..., K, d) float32; a vector nearer than `eps` to the mean stays shorter than 1, and its gradient bounded.
    """
    features = features.float()
    if center:
        features = features - features.mean(dim=-2, keepdim=True)
    norm = torch.linalg.vector_norm(features, dim=-1, keepdim=True)
    unit: Tensor = features / norm.clamp_min(eps)
    return unit


def pairwise_deviation(unit: Tensor) -> Tensor:
    """Return (..., K, K) values t_j . t_k + 1/(K-1) of (..., K, d) directions, 0 on the diagonal; 0 for an ETF."""
    num_classes = unit.shape[-2]
    off_diagonal = _off_diagonal(num_classes, unit.dtype, unit.device)
    return (unit @ unit.transpose(-1, -2) + 1.0 / (num_classes - 1)) * off_diagonal


@lru_cache(maxsize=4)
def _off_diagonal(num_classes: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return 1.0 - torch.eye(num_classes, dtype=dtype, device=device)


def mean_over_pairs(values: Tensor) -> Tensor:
    """Return the mean of (..., K, K) values whose diagonal is 0 over the K (K-1) pairs (and over leading axes)."""
    num_classes = values.shape[-1]
    return values.mean() * (num_classes / (num_classes - 1))


def mean_squared_deviation(unit: Tensor) -> Tensor:
    """Return the mean of `pairwise_deviation(unit)` squared over pairs (and over leading axes), a scalar.

    From K = 2 d on the sum is taken through U^t U, which is (d, d): with c = 1/(K-1) and n_j = |t_j|^2,

        sum_{j != k} (t_j . t_k + c)^2 = |U^t U|^2 - sum n_j^2 + 2 c (|sum t_j|^2 - sum n_j) + c^2 K (K-1)

    which takes K d^2 instead of K^2 d multiplications and no (K, K) memory. With fewer classes its terms would cancel
    too far: the least value is near 0 up to K = d + 1, and at 2 d half of the first term.

    Args:
        unit: (..., K, d) directions.
    """
    num_classes, dim = unit.shape[-2:]
    if num_classes < 2 * dim:
        return mean_over_pairs(pairwise_deviation(unit).square())
    c = 1.0 / (num_classes - 1)
    own = unit.square().sum(dim=-1)
    squares = (unit.transpose(-1, -2) @ unit).square().sum(dim=(-1, -2)) - own.square().sum(dim=-1)
    crossed = unit.sum(dim=-2).square().sum(dim=-1) - own.sum(dim=-1)
    return ((squares + 2.0 * c * crossed) / (num_classes * (num_classes - 1)) + c * c).mean()


def lmc_minimum(num_classes: int, dim: int) -> float:
    """Return the least possible L_LMC of K unit vectors in d dimensions: 0 up to K = d + 1, more beyond.

    Source: the frame potential bound sum_jk (t_j . t_k)^2 >= K^2 / d, met by tight frames of zero sum.
    """
    if num_classes <= dim + 1:
        return 0.0
    return num_classes * (num_classes - 1 - dim) / (dim * (num_classes - 1) ** 2)


def class_means(features: Tensor, labels: Tensor, num_classes: int) -> Tensor:
    """Return (K, d) float32 means of (n, d) or (n, V, d) features: every view of every image weighs the same."""
    if features.dim() == 3:
        features = features.mean(dim=1)
    features = features.float()
    sums = torch.zeros(num_classes, features.shape[-1], device=features.device).index_add_(0, labels, features)
    counts = torch.bincount(labels, minlength=num_classes).clamp_min(1)
    return sums / counts.unsqueeze(1)


def within_class(features: Tensor, labels: Tensor, num_classes: int) -> float | None:
    """Return tr(Sigma_W Sigma_B^+) / K of (n, d) features: 0 when every class has collapsed to its mean.

    Both covariances give every class the same weight, whatever its count.

    Returns:
        None when a class has fewer than 2 images, or all class means coincide.
    """
    counts = torch.bincount(labels, minlength=num_classes)
    if int(counts.min()) < 2:
        return None
    features = features.double()
    means = torch.zeros(num_classes, features.shape[-1], dtype=features.dtype, device=features.device)
    means = means.index_add(0, labels, features) / counts.unsqueeze(1)
    _, singular, basis = torch.linalg.svd(means - means.mean(dim=0), full_matrices=False)
    keep = singular > singular.max() * 1e-6 if float(singular.max()) > 1e-9 else torch.zeros_like(singular).bool()
    if not bool(keep.any()):
        return None
    # Sigma_B = 1/K M^T M, so along basis vector r its pseudo-inverse is K / s_r^2; the K cancels the 1/K outside.
    whitened = (features - means[labels]) @ basis[keep].t() / singular[keep]
    per_image = whitened.square().sum(dim=1) / counts[labels]
    return float(per_image.sum() / num_classes)


def _angles(unit: Tensor) -> tuple[float | None, float | None]:
    if unit.shape[-2] < 3:  # two centred vectors are antipodal whatever they are
        return None, None
    num_classes, total, largest = unit.shape[-2], 0.0, 0.0
    for start in range(0, num_classes, ROWS):  # so that thousands of classes take no (K, K) memory
        deviation = unit[..., start : start + ROWS, :] @ unit.transpose(-1, -2) + 1.0 / (num_classes - 1)
        deviation.diagonal(offset=start, dim1=-2, dim2=-1).zero_()
        total += float(deviation.abs().sum(dtype=torch.float64))
        largest = max(largest, float(deviation.abs().max()))
    return total / (unit[..., 0].numel() * (num_classes - 1)), largest


def _equinorm(features: Tensor) -> float | None:
    if features.shape[-2] < 3:
        return None
    norms = torch.linalg.vector_norm(features.float() - features.float().mean(dim=-2, keepdim=True), dim=-1)
    mean = norms.mean(dim=-1)
    if bool((mean < 1e-9).any()):
        return None
    return float((norms.std(dim=-1, unbiased=False) / mean).mean())


@torch.no_grad()
def geometry(
    text_features: Tensor | None,
    means: Tensor | None,
    *,
    scale: float,
    labels: Tensor | None = None,
    within: float | None = None,
) -> dict[str, float | None]:
    """Measure text and image class vectors.

    Args:
        text_features: (K, d), or (B, K, d) where the text depends on the image, or None (no text features).
        means: (K, d) class means of the images, or None.
        scale: The logit scale s.
        labels: (B,) classes of the images the (B, K, d) text features belong to.
        within: The within-class number when it was measured before (it does not change on a frozen image path).

    Returns:
        Numbers by name, None where undefined: `equiangularity_mean`, `equiangularity_max`, `equinorm` of the text, the
        same with `image_` of the class means, `duality`, `within_class`, `lmc`, `lmc_excess`, `mmi`, `bias_spread`.
    """
    result: dict[str, float | None] = dict.fromkeys(NUMBERS)
    result["within_class"] = within
    if means is not None:
        image_unit = directions(means)
        result["image_equiangularity_mean"], result["image_equiangularity_max"] = _angles(image_unit)
        result["image_equinorm"] = _equinorm(means)
    if text_features is None:
        return _finite(result)
    text_features = text_features.float()
    unit = directions(text_features)
    num_classes, dim = unit.shape[-2:]
    result["equiangularity_mean"], result["equiangularity_max"] = _angles(unit)
    result["equinorm"] = _equinorm(text_features)
    lmc = float(mean_squared_deviation(unit))
    result["lmc"], result["lmc_excess"] = lmc, lmc - lmc_minimum(num_classes, dim)
    if means is not None:
        cosines = (unit * image_unit).sum(dim=-1)
        if unit.dim() == 3 and labels is not None:  # each class is judged by the text its own images see
            own = cosines.gather(1, labels.unsqueeze(1)).squeeze(1)
            present = torch.bincount(labels, minlength=num_classes)
            sums = torch.zeros(num_classes, device=own.device).index_add_(0, labels, own)
            cosines = (sums / present.clamp_min(1))[present > 0]
        duality = float(cosines.mean())
        result["duality"], result["mmi"] = duality, 1.0 - duality
        bias = scale * (text_features @ means.mean(dim=0))
        result["bias_spread"] = float(bias.std(dim=-1, unbiased=False).mean())
    return _finite(result)


def _finite(numbers: dict[str, float | None]) -> dict[str, float | None]:
    return {name: None if value is None or not math.isfinite(value) else value for name, value in numbers.items()}
