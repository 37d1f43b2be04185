"""The training images as the trainer takes them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from npt_core.methods.base import ImageBatch
from npt_core.tuning.features import PixelSource


@dataclass
class TrainData:
    """The n training images, as much of each as the method needs.

    Attributes:
        labels: (n,) class indices.
        views: V, how many views of each image there are.
        features: (n, V, d) unit-norm features of the frozen tower; methods on pixels have them where they read them.
        tokens: (n, V, T, d) token features, for methods that need them.
        pixels: Source of pixels, for methods that need them.
    """

    labels: Tensor
    views: int
    features: Tensor | None = None
    tokens: Tensor | None = None
    pixels: PixelSource | None = None

    def to(self, device: torch.device) -> TrainData:
        """Return the same data with its tensors on `device`."""

        def move(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return TrainData(self.labels.to(device), self.views, move(self.features), move(self.tokens), self.pixels)

    def batch(self, rows: Tensor, views: Tensor) -> ImageBatch:
        """Return the (B,) images `rows`, each in its view of `views`."""
        return ImageBatch(
            features=None if self.features is None else self.features[rows, views],
            tokens=None if self.tokens is None else self.tokens[rows, views],
            pixels=None if self.pixels is None else self.pixels.batch(rows.tolist(), views.tolist()),
            labels=self.labels[rows],
        )
