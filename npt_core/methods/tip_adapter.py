"""Tip-Adapter: the training images' features are a cache that votes beside zero-shot; -F also tunes its keys.

Source: Tip-Adapter, arXiv 2207.09519. Differs: the two blending factors have the least cross-entropy on held-out folds
of the training images, since there is no other validation set, and are searched only before the keys are tuned; tuned
keys are normalised again, and the last epoch's are kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from npt_core.data.sampling import stratified_folds
from npt_core.errors import ConfigError
from npt_core.methods.base import Method, MethodConfig, Recipe, register
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

ALPHAS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
BETAS = (1.0, 3.0, 5.5, 10.0, 20.0)
MAX_FOLDS = 3
MAX_KEYS = 100_000


@dataclass(frozen=True)
class TipAdapterConfig(MethodConfig):
    """The cache and how it is blended with zero-shot."""

    finetune: bool = setting(False, doc="Tip-Adapter-F: tune the keys too.")
    alpha: float | None = setting(
        None, ge=0, le=1e4, doc="Weight of the cache's vote; null: searched by cross-validation on the training images."
    )
    beta: float | None = setting(
        None, gt=0, le=1e4, doc="Sharpness of the cache's vote; null: searched by cross-validation."
    )


def cache_vote(features: Tensor, keys: Tensor, values: Tensor, beta: Tensor | float, num_classes: int) -> Tensor:
    """Return (B, K) sums over classes of exp(-beta (1 - x . key)).

    Args:
        features: (B, d) unit-norm.
        keys: (m, d) unit-norm.
        values: (m,) class of each key.
        beta: Sharpness.
        num_classes: K; a class without a key gets no vote.
    """
    affinity = torch.exp(-beta * (1 - features @ keys.t()))  # (B, m)
    return affinity @ F.one_hot(values, num_classes).to(affinity.dtype)


@register
class TipAdapter(Method):
    """Zero-shot logits + alpha times the vote of a key-value cache."""

    name = "tip_adapter"
    title = "Tip-Adapter"
    source = "arXiv 2207.09519"
    Config = TipAdapterConfig
    moves_features = False
    supports_new_classes = False
    replays_by_itself = True
    recipe = Recipe(
        lr=0.001,
        batch_size=256,
        epochs_by_shots=((1_000_000, 20),),
        optimizer="adamw",
        weight_decay=0.01,
        warmup_epochs=0,
    )
    config: TipAdapterConfig
    values: Tensor
    blend: Tensor

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        from npt_core.clip.tokens import PromptTable

        super().__init__(config, backbone, classes, generator=generator)
        PromptTable(backbone, classes, 0)  # refuses duplicate and overlong names, as every other method does
        device = backbone.device
        empty = torch.zeros(0, backbone.d, device=device)
        self.keys = nn.Parameter(empty, requires_grad=self.config.finetune)
        self.register_buffer("values", torch.zeros(0, dtype=torch.int64, device=device))
        alpha = 1.0 if self.config.alpha is None else self.config.alpha
        blend = torch.tensor([alpha, self.config.beta or 5.5], device=device)
        self.register_buffer("blend", blend)  # (2,): alpha and beta
        self._inherited = 0

    def encode_text(self) -> Tensor:
        """Return the (K, d) features of the hand-written templates, encoded once."""
        return self.zero_shot_text()

    def logits(self, image_features: Tensor, text_features: Tensor | None) -> Tensor:
        """Return (B, K) zero-shot logits and the vote."""
        alpha, beta = self.blend.unbind()
        logits = super().logits(image_features, text_features)
        if not len(self.keys):
            return logits
        keys = F.normalize(self.keys, dim=-1) if self.config.finetune else self.keys
        return logits + alpha * cache_vote(image_features, keys, self.values, beta, self.num_classes)

    def fit(self, features: Tensor | None, labels: Tensor) -> None:
        """Fill the cache with one key an image (the mean of its views) and search the blend.

        Behind a parent's keys, the new ones are added, and the blend stays: it was searched among all of the parent's
        images, of which only the keys are left.
        """
        if features is None:
            raise ConfigError(f"Method {self.name!r} works on image features and none were given.")
        keys = F.normalize(features.float().mean(dim=1), dim=-1)
        with torch.no_grad():
            if self._inherited:
                old, its = self.keys.detach()[: self._inherited].clone(), self.values[: self._inherited].clone()
                self.make_room({"keys": torch.Size([len(old) + len(keys), keys.shape[1]])})
                self.keys.copy_(torch.cat([old, keys]))
                self.values.copy_(torch.cat([its, labels]))
                return
            self.make_room({"keys": keys.shape, "values": labels.shape})
            self.keys.copy_(keys)
            self.values.copy_(labels)
            if self.config.alpha is None or self.config.beta is None:
                self.blend.copy_(self._search(features[:, 0].float(), keys, labels))

    def start_from(self, parent: Method) -> None:
        """Take over the parent's keys; `fit` adds those of the new images."""
        super().start_from(parent)
        self._inherited = len(self.keys)

    def _search(self, plain: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
        """Return the (alpha, beta) of least cross-validated loss; each fold votes with the keys of the others."""
        folds = min(MAX_FOLDS, int(torch.bincount(labels, minlength=self.num_classes).min()))
        if folds < 2:
            return self.blend
        fold_of = torch.as_tensor(stratified_folds(labels.tolist(), folds, 0)).to(labels.device)
        zero_shot = super().logits(plain, self.encode_text())
        best = (float("inf"), self.blend)
        for beta in BETAS if self.config.beta is None else (self.config.beta,):
            vote = torch.zeros_like(zero_shot)
            for fold in range(folds):
                mine, others = fold_of == fold, fold_of != fold
                vote[mine] = cache_vote(plain[mine], keys[others], labels[others], beta, self.num_classes)
            for alpha in ALPHAS if self.config.alpha is None else (self.config.alpha,):
                loss = float(F.cross_entropy(zero_shot + alpha * vote, labels))
                if loss < best[0]:
                    best = (loss, torch.tensor([alpha, beta], device=labels.device))
        return best[1]

    def make_room(self, shapes: Mapping[str, torch.Size]) -> None:
        """Make the cache as large as the training set was."""
        shape = shapes.get("keys")
        if shape is None or shape == self.keys.shape:
            return
        if len(shape) != 2 or shape[1] != self.backbone.d or shape[0] > MAX_KEYS:
            return  # loading then says what does not fit
        device = self.backbone.device
        self.keys.data = torch.zeros(*shape, device=device)
        self.values = torch.zeros(shape[0], dtype=torch.int64, device=device)

    def learned_fault(self, name: str, value: Tensor) -> str | None:
        """Every key votes for a class that there is."""
        if name == "values" and len(value) and not 0 <= int(value.min()) <= int(value.max()) < self.num_classes:
            return f"names classes from {int(value.min())} to {int(value.max())}; there are {self.num_classes}"
        return None
