"""How sure a classifier may be: one temperature for its logits, fitted on images that no measured prompt had seen.

    p = softmax(logits / T)

T is positive, so that no answer changes, only how sure it is.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import torch
from torch import Tensor

from npt_core.artefact import MAX_TEMPERATURE, MIN_TEMPERATURE
from npt_core.errors import ConfigError

MIN_IMAGES = 20
"""With fewer different images a fitted temperature is as likely to harm as to help; docs/decisions/0010."""
FOLDS = 5
COIN_FLIPS = 1.0
"""Images that are added in thought, on which the two best classes are equally right."""

_AT_ONCE = 1 << 21
"""Logits that are looked at together: 16 MiB of float64."""
_STEPS = 100
_PRECISION = 1e-9


@dataclass(frozen=True)
class Calibration:
    """What a classifier knows of how sure it is, as its manifest stores it.

    Attributes:
        temperature: What its logits are divided by.
        count: Images it was fitted on; 0: there were too few, nothing was fitted, and the temperature is 1.
        source: Where those images come from, a kind of `EvaluationPlan`.
        reject_below: The probability under which an answer counts as none where nobody says otherwise, or None.
    """

    temperature: float = 1.0
    count: int = 0
    source: str = "none"
    reject_below: float | None = None

    @property
    def fitted(self) -> bool:
        """Whether probabilities may be read as frequencies."""
        return self.count > 0

    @classmethod
    def from_manifest(cls, entry: Mapping[str, Any] | None) -> Self:
        """Read what `to_manifest` wrote and `npt_core.artefact` has checked."""
        return cls() if entry is None else cls(**{**entry, "temperature": float(entry["temperature"])})

    def to_manifest(self) -> dict[str, Any] | None:
        """Return it as JSON-able values; None where there is nothing to keep."""
        if not self.fitted and self.reject_below is None:
            return None
        return {name: getattr(self, name) for name in ("temperature", "count", "source", "reject_below")}


@dataclass(frozen=True)
class Fit:
    """A temperature, and which bound it would have passed, if any."""

    temperature: float
    bound: Literal["lower", "upper"] | None = None


@dataclass(frozen=True)
class Certainty:
    """How sure the answers to n images are: all that is kept of (n, K) logits, whatever the number of classes.

    Attributes:
        answers: (n,) int64 the best classes.
        confidence: (n,) float64 their probabilities.
        log_own: (n,) float64 log probabilities of the true classes, nats.
    """

    answers: Tensor
    confidence: Tensor
    log_own: Tensor


def certainty(logits: Tensor, labels: Tensor, temperature: float | Tensor = 1.0) -> Certainty:
    """Return how sure the answers of (n, K) logits over a temperature are, or over (n,), one an image; CPU.

    It is computed in float64 for some images at a time, so that thousands of classes take no second (n, K) memory.
    """
    labels = labels.cpu()
    over = torch.as_tensor(temperature, dtype=torch.float64).expand(len(labels))
    confidence, own = (torch.empty(len(labels), dtype=torch.float64) for _ in range(2))
    for rows in _pieces(logits):
        log_probabilities = torch.log_softmax(logits[rows].double().cpu() / over[rows].unsqueeze(1), dim=1)
        confidence[rows] = log_probabilities.amax(dim=1).exp()
        own[rows] = log_probabilities.gather(1, labels[rows].view(-1, 1)).squeeze(1)
    # Of the logits: softmax can tie what they tell apart.
    return Certainty(logits.argmax(dim=1).cpu(), confidence, own)


def _pieces(logits: Tensor) -> list[slice]:
    """Rows that are looked at together."""
    step = max(1, _AT_ONCE // max(1, logits.shape[1]))
    return [slice(start, start + step) for start in range(0, len(logits), step)]


def fit_temperature(logits: Tensor, labels: Tensor, images: Tensor | None = None) -> Fit:
    """Return the temperature of the least cross-entropy.

    Cross-entropy is convex in 1/T; its slope there is the mean logit under the softmax minus that of the true class. To
    the n images one is added in thought on which the two best classes are equally right, averaged over the images:
    without it, a few images that are all answered rightly would ask for certainty. In the limit of perfect separation
    the remaining doubt is about 1/(2n); with many images it makes no difference.

    Args:
        logits: (n, K) with n at least 1, K at least 2.
        labels: (n,) true classes.
        images: (m,) positions of those it is fitted on; None: all.

    Returns:
        The temperature, between `MIN_TEMPERATURE` and `MAX_TEMPERATURE`; 1 where the logits tell nothing apart.

    Raises:
        ConfigError: Logits that are not finite.

    Source: Guo et al., arXiv 1706.04599. Differs: the image in thought (Platt 1999 smooths his targets for the same
    reason), and the bounds.
    """
    images = torch.arange(len(logits)) if images is None else images
    step = max(1, _AT_ONCE // logits.shape[1])
    labels = labels.cpu()

    def centred(part: Tensor) -> Tensor:
        z = logits[part.to(logits.device)].double().cpu()
        return z - z.amax(dim=1, keepdim=True)

    parts = torch.split(images, step)
    wanted = even = 0.0
    for part in parts:
        z = centred(part)
        if not bool(torch.isfinite(z).all()):
            raise ConfigError("The measured logits hold NaN or infinite values; no temperature can be fitted to them.")
        even += float(z.topk(2, dim=1).values.mean(dim=1).sum()) / len(images)
        wanted += float(z.gather(1, labels[part].view(-1, 1)).sum())
    weight = 1.0 + COIN_FLIPS / len(images)
    wanted += COIN_FLIPS * even
    only = centred(parts[0]) if len(parts) == 1 else None  # a few images: looked at again and again as they are

    def slope(beta: float) -> tuple[float, float]:
        first = second = 0.0
        for part in parts:
            z = centred(part) if only is None else only
            p = torch.softmax(beta * z, dim=1)
            mean = (p * z).sum(dim=1)
            first += float(mean.sum())
            second += float(((p * z.square()).sum(dim=1) - mean.square()).sum())
        return weight * first - wanted, weight * second

    low, high, beta = 1 / MAX_TEMPERATURE, 1 / MIN_TEMPERATURE, 1.0
    if slope(beta)[0] == 0:
        return Fit(1.0)
    if slope(low)[0] >= 0:
        return Fit(MAX_TEMPERATURE, "upper")
    if slope(high)[0] <= 0:
        return Fit(MIN_TEMPERATURE, "lower")
    for _ in range(_STEPS):  # Newton, held between bounds that close in
        first, second = slope(beta)
        low, high = (low, beta) if first > 0 else (beta, high)
        ahead = beta - first / second if second > 0 else 0.0
        ahead = ahead if low < ahead < high else (low * high) ** 0.5
        if abs(ahead - beta) <= _PRECISION * beta:
            break
        beta = ahead
    return Fit(1 / beta)


def folds_of(groups: Sequence[Hashable]) -> Tensor:
    """Deal images to `FOLDS` folds in turn, so that classes that lie in a row spread evenly.

    Args:
        groups: One an image; images of one group (the same bytes) stay together.

    Returns:
        (n,) numbers from 0 to `FOLDS` - 1.
    """
    number = {group: place for place, group in enumerate(dict.fromkeys(groups))}
    return torch.tensor([number[group] % FOLDS for group in groups], dtype=torch.int64)


def cross_fitted(logits: Tensor, labels: Tensor, folds: Tensor) -> Certainty:
    """Return how sure the answers are, each image's with the temperature of the images of the other folds.

    Args:
        logits: (n, K).
        labels: (n,) true classes.
        folds: (n,) the fold of each image; at least two different ones.
    """
    temperatures = torch.ones(len(logits), dtype=torch.float64)
    for fold in set(folds.tolist()):
        others = (folds != fold).nonzero().squeeze(1)
        temperatures[folds == fold] = fit_temperature(logits, labels, others).temperature
    return certainty(logits, labels, temperatures)
