"""Linear probe: logistic regression on the frozen image features; the baseline that knows no words.

Source: CLIP, arXiv 2103.00020, appendix A.3: L-BFGS, the strength of the penalty chosen on validation. Differs:
unit-norm features of the joint space, where CLIP takes those before the projection; six strengths, folds of the
training images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from npt_core.data.sampling import stratified_folds
from npt_core.errors import ConfigError
from npt_core.methods.base import Method, MethodConfig, register
from npt_core.schema import setting

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt

STRENGTHS = tuple(float(c) for c in 10.0 ** np.arange(-2, 3.1, 1.0))
"""Inverse penalties that are tried, on unit-norm features."""

MAX_FOLDS = 3
MAX_ITERATIONS = 500


@dataclass(frozen=True)
class LinearProbeConfig(MethodConfig):
    """The penalty of the logistic regression."""

    strength: float | None = setting(
        None,
        gt=0,
        le=1e6,
        doc="Inverse of the L2 penalty (C); null: chosen by cross-validation on the training images.",
    )


@register
class LinearProbe(Method):
    """Logistic regression on (B, d) features."""

    name = "linear_probe"
    title = "Linear probe"
    source = "arXiv 2103.00020"
    Config = LinearProbeConfig
    has_text_features = False
    moves_features = False
    learns_class_shares = True
    supports_new_classes = False
    parent_refusal = (
        "it is fitted from scratch on all images at once, so a parent would change nothing: add the pictures to its "
        "data set (POST /datasets/{id}/edit) and tune on that"
    )
    config: LinearProbeConfig

    def __init__(
        self, config: MethodConfig, backbone: Backbone, classes: Sequence[ClassPrompt], *, generator: torch.Generator
    ) -> None:
        super().__init__(config, backbone, classes, generator=generator)
        device = backbone.device
        self.weight = nn.Parameter(torch.zeros(self.num_classes, backbone.d, device=device), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(self.num_classes, device=device), requires_grad=False)

    def logits(self, image_features: Tensor, text_features: Tensor | None) -> Tensor:
        """Return (B, K) logits; the logit scale of the backbone has no part in them."""
        return image_features @ self.weight.t() + self.bias

    def fit(self, features: Tensor | None, labels: Tensor) -> None:
        """Fit on all views of all images; views of one image share a fold."""
        if features is None:
            raise ConfigError(f"Method {self.name!r} works on image features and none were given.")
        n, views, d = features.shape
        x = features.reshape(n * views, d).double().cpu().numpy()
        y = labels.cpu().numpy().repeat(views)
        strength = self.config.strength or _choose(x, y, np.arange(n).repeat(views), int(self.generator.initial_seed()))
        model = _regression(strength).fit(x, y)
        # Two classes: scikit-learn keeps one row, the logit of the second against the first.
        coefficients, intercept = model.coef_, model.intercept_
        if len(coefficients) == 1:
            coefficients = np.concatenate([-coefficients, coefficients]) / 2
            intercept = np.concatenate([-intercept, intercept]) / 2
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(coefficients))
            self.bias.copy_(torch.from_numpy(intercept))


Numbers = np.ndarray[Any, Any]


def _regression(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    return LogisticRegression(C=strength, max_iter=MAX_ITERATIONS, tol=1e-4)


def _choose(x: Numbers, y: Numbers, image: Numbers, seed: int) -> float:
    """Return the strength with the best cross-validated likelihood.

    Args:
        x: (m, d) features.
        y: (m,) classes.
        image: (m,) which image each row is a view of; its views stay together.
        seed: Of the folds.
    """
    from sklearn.metrics import log_loss

    first = np.unique(image, return_index=True)[1]
    folds = min(MAX_FOLDS, int(np.bincount(y[first]).min()))
    if folds < 2:
        return STRENGTHS[len(STRENGTHS) // 2]
    fold_of = np.asarray(stratified_folds(y[first].tolist(), folds, seed))[image]
    losses = []
    for strength in STRENGTHS:
        loss = 0.0
        for fold in range(folds):
            inside = fold_of != fold
            model = _regression(strength).fit(x[inside], y[inside])
            loss += log_loss(y[~inside], model.predict_proba(x[~inside]), labels=np.unique(y))
        losses.append(loss)
    return STRENGTHS[int(np.argmin(losses))]
