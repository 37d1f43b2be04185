"""Methods that exist only in tests: each uses one hook or one fact of the method contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from npt_core.methods import ImageBatch, ImageInput, Method, MethodConfig, MethodOutput


@dataclass(frozen=True)
class ToyConfig(MethodConfig):
    """No settings."""


class Toy(Method):
    """One learned shift of fixed text features."""

    name = "toy"
    title = "Toy"
    source = "tests"
    Config = ToyConfig

    def __init__(self, config: MethodConfig, backbone: Any, classes: Sequence[Any], *, generator: torch.Generator):
        super().__init__(config, backbone, classes, generator=generator)
        self.text = torch.nn.functional.normalize(torch.randn(len(classes), backbone.d, generator=generator), dim=1)
        self.shift = nn.Parameter(torch.zeros(backbone.d))
        self.calls: list[Any] = []

    def encode_text(self) -> Tensor:
        return torch.nn.functional.normalize(self.text + self.shift, dim=1)


class Hooked(Toy):
    """Writes down every hook that is called."""

    def fit(self, features: Tensor | None, labels: Tensor) -> None:
        self.calls.append(("fit", None if features is None else tuple(features.shape), len(labels)))

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        return {"keep": 0.5 * self.shift.square().sum()}

    def on_epoch_end(self, epoch: int, epochs: int) -> None:
        self.calls.append(("epoch", epoch, epochs))

    def on_tuning_end(self, features: Tensor | None, labels: Tensor) -> None:
        self.calls.append(("end",))


class TaskOnly(Hooked):
    """Drops the gradient of its own loss, so that it must learn as if there were none."""

    def combine_gradients(self, gradients: Mapping[str, Sequence[Tensor]]) -> Sequence[Tensor]:
        assert set(gradients) == {"task", "keep"}
        return gradients["task"]


class Plain(Hooked):
    """The same without an own loss."""

    def named_losses(self, batch: ImageBatch, output: MethodOutput) -> Mapping[str, Tensor]:
        return {}


class OnPixels(Toy):
    """A learned image path: a shift of the image features."""

    image_input = ImageInput.PIXELS
    learns_image_path = True

    def encode_image(self, batch: ImageBatch) -> Tensor:
        assert batch.pixels is not None
        raw = self.backbone.image.encode(batch.pixels)
        return torch.nn.functional.normalize(raw + self.shift, dim=1)

    def encode_text(self) -> Tensor:
        return self.text


class OnTokens(Toy):
    """Text that depends on the image through its token features."""

    image_input = ImageInput.TOKENS
    text_depends_on_image = True

    def forward(self, batch: ImageBatch, text_features: Tensor | None = None) -> MethodOutput:
        assert batch.tokens is not None
        assert batch.features is not None
        guided = self.text + self.shift * batch.tokens.mean(dim=1).unsqueeze(1)  # (B, K, d)
        text = torch.nn.functional.normalize(guided, dim=-1)
        return MethodOutput(batch.features, text, self.logits(batch.features, text))


class Head(Toy):
    """A linear head: no text features."""

    has_text_features = False
    moves_features = False
    supports_new_classes = False

    def logits(self, image_features: Tensor, text_features: Tensor | None) -> Tensor:
        return self.scale * image_features @ (self.text + self.shift).t()


class ClosedForm(Head):
    """Learns in `fit` alone; what it learns is a buffer."""

    name = "closed"

    def __init__(self, config: MethodConfig, backbone: Any, classes: Sequence[Any], *, generator: torch.Generator):
        super().__init__(config, backbone, classes, generator=generator)
        del self.shift
        self.register_buffer("weight", torch.zeros(len(classes), backbone.d))

    def fit(self, features: Tensor | None, labels: Tensor) -> None:
        assert features is not None
        for k in range(self.num_classes):
            self.weight[k] = features[labels == k].mean(dim=(0, 1))

    def logits(self, image_features: Tensor, text_features: Tensor | None) -> Tensor:
        return self.scale * image_features @ self.weight.t()


class SometimesNaN(Toy):
    """The loss is NaN in the given calls of forward while tuning."""

    bad_calls: frozenset[int] = frozenset()

    def forward(self, batch: ImageBatch, text_features: Tensor | None = None) -> MethodOutput:
        output = super().forward(batch, text_features)
        self.calls.append("forward")
        if self.training and len(self.calls) in self.bad_calls:
            output.logits = output.logits * float("nan")
        return output


class Hungry(Toy):
    """Runs out of memory until it is asked for no more than `fits` prompts at once."""

    fits = 1

    def encode_text(self) -> Tensor:
        if torch.is_grad_enabled() and (self.chunk is None or self.chunk > self.fits):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return super().encode_text()
