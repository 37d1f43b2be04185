"""The contract of a regulariser: it sees features, labels and class means, never the method they came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from npt_core.discovery import Registry
from npt_core.errors import ConfigError, IncompatibleError
from npt_core.schema import Settings


@dataclass(frozen=True)
class RegularizerConfig(Settings):
    """Settings of a regulariser."""


@dataclass(frozen=True)
class CollapseSetup:
    """What stays the same for a whole tuning.

    Attributes:
        frozen_text_features: (K, d) zero-shot text features of the same classes.
        num_images: (K,) training images of each class.
        seed: Training seed.
    """

    frozen_text_features: Tensor
    num_images: Tensor
    seed: int


@dataclass(frozen=True)
class CollapseContext:
    """What a regulariser may look at in one step.

    Attributes:
        text_features: (K, d), or (B, K, d) where the text depends on the image; unit-norm.
        image_features: (B, d) unit-norm.
        labels: (B,) class indices.
        class_means: (K, d) mean image feature of each class, not normalised: over all training images and views for a
            frozen image path, moving batch means for a learned one.
        seen: (K,) bool; False for a class of which no image has been seen yet. None for all (frozen image path).
    """

    text_features: Tensor
    image_features: Tensor
    labels: Tensor
    class_means: Tensor
    seen: Tensor | None = None


class Regularizer:
    """Base of every regulariser.

    Args:
        config: An instance of this class's `Config`.
        setup: What stays the same for the tuning.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    source: ClassVar[str]
    Config: ClassVar[type[RegularizerConfig]]

    def __init__(self, config: RegularizerConfig, setup: CollapseSetup) -> None:
        self.config = config
        self.setup = setup

    @property
    def active(self) -> bool:
        """False when every weight is 0: the loss is then plain cross-entropy, bit for bit."""
        return True

    @property
    def memory_decay(self) -> float:
        """How much of the old class mean stays after a batch, for a learned image path."""
        return float(getattr(self.config, "memory", 0.9))

    def losses(self, context: CollapseContext) -> Mapping[str, Tensor]:
        """Return scalar float32 losses by name, already weighted; a term of weight 0 is left out."""
        raise NotImplementedError


REGULARIZERS: Registry[Regularizer] = Registry("npt_core.collapse", "regulariser")


def register(cls: type[Regularizer]) -> type[Regularizer]:
    """Class decorator: make a regulariser known by its name.

    Raises:
        ConfigError: The name is taken, or a declaration is missing.
    """
    missing = [fact for fact in ("name", "title", "source", "Config") if not hasattr(cls, fact)]
    if missing:
        raise ConfigError(f"Regulariser {cls.__qualname__} does not declare {', '.join(missing)}; every one must.")
    REGULARIZERS.add(cls.name, cls)
    return cls


@dataclass(frozen=True)
class RegularizerInfo:
    """What a user is told about a regulariser."""

    name: str
    title: str
    source: str
    schema: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return dict(vars(self))


@dataclass(frozen=True)
class NoConfig(RegularizerConfig):
    """The plain loss has no settings."""


@register
class Plain(Regularizer):
    """No regulariser: cross-entropy alone."""

    name = "none"
    title = "None (plain loss)"
    source = ""
    Config = NoConfig

    @property
    def active(self) -> bool:
        """Never."""
        return False

    def losses(self, context: CollapseContext) -> Mapping[str, Tensor]:
        """Return nothing."""
        return {}


def check_pair(method_name: str, *, moves_features: bool, regularizer: str) -> None:
    """Refuse a regulariser where it cannot change anything.

    Raises:
        IncompatibleError: Tuning moves neither text nor image features.
    """
    if regularizer == Plain.name or moves_features:
        return
    raise IncompatibleError(
        f"Regulariser {regularizer!r} makes no sense with method {method_name!r}, which moves neither text nor image "
        "features; use regularizer 'none'."
    )


class ClassMeans:
    """Moving class means for a learned image path: batch means with a memory for classes absent from the batch.

    The value of a present class is the moving average; its gradient is that of the batch mean (straight-through), so
    that the image path is pulled as if the mean were its own batch's.

    Args:
        num_classes: K.
        dim: d.
        decay: Share of the old mean that stays, 0 <= decay < 1.
    """

    def __init__(self, num_classes: int, dim: int, decay: float, device: torch.device | str = "cpu") -> None:
        self.decay = decay
        self.mean = torch.zeros(num_classes, dim, device=device)
        self.seen = torch.zeros(num_classes, dtype=torch.bool, device=device)

    def update(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Take in a batch.

        Args:
            features: (B, d) image features, with gradient.
            labels: (B,) class indices.

        Returns:
            (K, d) class means with the gradient of the batch means, and (K,) bool: classes seen so far.
        """
        features = features.float()
        num_classes = self.mean.shape[0]
        counts = torch.zeros(num_classes, device=features.device).index_add_(
            0, labels, torch.ones_like(labels, dtype=torch.float32)
        )
        sums = torch.zeros_like(self.mean).index_add(0, labels, features)
        batch_mean = sums / counts.clamp_min(1).unsqueeze(1)
        present = counts > 0
        with torch.no_grad():
            blended = torch.where(
                self.seen.unsqueeze(1), self.decay * self.mean + (1 - self.decay) * batch_mean, batch_mean
            )
            self.mean = torch.where(present.unsqueeze(1), blended, self.mean)
            self.seen = self.seen | present
        straight_through = self.mean + (batch_mean - batch_mean.detach())
        return torch.where(present.unsqueeze(1), straight_through, self.mean), self.seen

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"mean": self.mean, "seen": self.seen}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` returned."""
        self.mean = state["mean"].to(self.mean.device)
        self.seen = state["seen"].to(self.seen.device)
