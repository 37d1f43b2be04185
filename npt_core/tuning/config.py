"""The tune config: every setting of a tuning, validated together, all faults at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Literal, Self

from npt_core.errors import ConfigError, Fault
from npt_core.schema import Settings, setting
from npt_core.tuning.recipes import AUTO, AutoConfig

if TYPE_CHECKING:
    from torch.nn import Parameter
    from torch.optim import Optimizer

    from npt_core.clip.backbone import Backbone

MAX_DEFAULT_STEPS = 4_000
"""Default epochs are cut so that one tuning takes at most about this many steps; `epochs` sets them freely."""

MIN_DEFAULT_EPOCHS = 5

DEFAULT_VIEWS = 4
MANY_IMAGES = 8_000
"""Crops help where images are few, and each one costs an encoding: by default no more views in all than this, until
there is one view an image."""


@dataclass(frozen=True)
class TuneConfig(Settings):
    """How to tune. Everything is optional; an untouched config is meant to be a good one."""

    backbone: str | None = setting(None, max_length=200, doc="Name of a backbone of this server; null: its first.")
    method: str = setting(
        "coop", max_length=64, doc="Name of a method, see /methods, or auto: chosen by cross-validation."
    )
    method_config: Mapping[str, Any] = setting({}, doc="Settings of the method, see its schema.")
    regularizer: str | None = setting(
        None,
        max_length=64,
        doc="Name of a regulariser; null: npt where tuning moves text or image features, else none.",
    )
    regularizer_config: Mapping[str, Any] = setting({}, doc="Settings and weights of the regulariser, see its schema.")
    shots: int | None = setting(None, ge=1, le=1_000_000, doc="Tune on at most so many images a class; null: all.")
    val_fraction: float = setting(
        0.25, gt=0, lt=1, doc="Share of each class held out to measure accuracy, where there is no test or val split."
    )
    epochs: int | None = setting(None, ge=1, le=10_000, doc="Passes over the images; null: by images a class.")
    batch_size: int | None = setting(None, ge=1, le=4096, doc="Images a step; null: the method's (32 for CoOp).")
    lr: float | None = setting(
        None, gt=0, le=100, doc="Learning rate after warm-up; null: the method's, for this backbone."
    )
    logit_adjustment: float = setting(
        0.0,
        ge=0,
        le=10,
        doc="Cross-entropy on logits + this times the log of each class's share of the images: 1 is the plain answer "
        "to uneven classes; 0 is off.",
    )
    tuned_share: float = setting(
        1.0,
        ge=0,
        le=1,
        doc="Share of the tuned logits in the answer, the rest is zero-shot (WiSE-style); auto chooses its own.",
    )
    views: int | None = setting(
        None,
        ge=1,
        le=64,
        doc="Views of each image to tune on: the plain one and crops of it; null: by number of images.",
    )
    seed: int = setting(0, ge=0, le=2**53, doc="Seed of the training: initial context, order of images and views.")
    sampling_seed: int = setting(0, ge=0, le=2**53, doc="Seed of what is sampled: shots and the held-out part.")
    class_names: Mapping[str, str] = setting({}, max_length=100_000, doc="Folder name to the name used in prompts.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto", doc="Compute precision of the towers.")
    refit: bool = setting(True, doc="After measuring on a held-out part, tune once more on all images and ship that.")
    parent: str | None = setting(None, max_length=200, doc="Id of a model to continue from.")

    def __post_init__(self) -> None:
        from npt_core.collapse import check_pair
        from npt_core.methods import get_method

        super().__post_init__()
        if self.method == AUTO:
            return
        cls = get_method(self.method)
        check_pair(cls.name, moves_features=cls.moves_features, regularizer=str(self.regularizer))

    def conflicts(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        """Settings of the method and of the regulariser (filled in on the way), names that are no words."""
        from npt_core.collapse import get_regularizer
        from npt_core.methods import get_method

        if not mistyped & {"method", "method_config"}:
            yield from self._fill("method", lambda name: AutoConfig if name == AUTO else get_method(name).Config)
        if not mistyped & {"method", "regularizer", "regularizer_config"}:
            try:
                cls = get_method("coop" if self.method == AUTO else self.method)
            except ConfigError:
                cls = None  # reported already
            if self.regularizer is None and cls is not None:
                object.__setattr__(self, "regularizer", "npt" if cls.moves_features else "none")
            if self.regularizer is not None:
                yield from self._fill("regularizer", lambda name: get_regularizer(name).Config)
        if "class_names" not in mistyped:
            for folder, name in self.class_names.items():
                if not name.strip():
                    yield Fault(f"class_names.{folder}", "the name is empty; give it in words")

    def _fill(self, field: str, settings_of: Callable[[str], type[Settings]]) -> Iterable[Fault]:
        """Replace `<field>_config` by the full settings of what `field` names."""
        path = f"{field}_config"
        try:
            settings = settings_of(getattr(self, field))
        except ConfigError as error:
            yield Fault(field, error.message)
            return
        try:
            object.__setattr__(self, path, settings.from_dict(getattr(self, path)).to_dict())
        except ConfigError as error:
            yield from (Fault(f"{path}.{fault.path}", fault.message) for fault in error.faults)

    @classmethod
    def json_schema(cls) -> dict[str, Any]:
        """Return the JSON Schema, with the names of methods and regularisers there are."""
        from npt_core.collapse import list_regularizers
        from npt_core.methods import list_methods

        schema = super().json_schema()
        properties = schema["properties"]
        properties["method"]["enum"] = [AUTO, *(info.name for info in list_methods())]
        for part in properties["regularizer"]["anyOf"]:
            if part.get("type") == "string":
                part["enum"] = [info.name for info in list_regularizers()]
        return schema

    def fingerprint(self) -> str:
        """Return the SHA-256 of the canonical config: equal for configs that mean the same."""
        text = json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()


def resolve_views(config: TuneConfig, num_images: int) -> int:
    """Return how many views of each of `num_images` training images are tuned on."""
    if config.views is not None:
        return config.views
    return max(1, min(DEFAULT_VIEWS, MANY_IMAGES // max(1, num_images)))


@dataclass(frozen=True)
class Schedule:
    """A resolved training schedule.

    Attributes:
        warmup_epochs: 0 when there is only one epoch, which would otherwise learn nothing.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    weight_decay: float
    warmup_epochs: int
    warmup_lr: float
    optimizer: str = "sgd"
    logit_adjustment: float = 0.0

    def lr_at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, 0 <= epoch < epochs: constant warm-up, then a half cosine."""
        if epoch < self.warmup_epochs:
            return self.warmup_lr
        progress = (epoch - self.warmup_epochs) / max(1, self.epochs - self.warmup_epochs)
        return 0.5 * self.lr * (1 + math.cos(math.pi * progress))

    def optimizer_of(self, parameters: Sequence[Parameter]) -> Optimizer:
        """Return a fresh optimiser of parameters."""
        import torch

        if self.optimizer == "adamw":
            # eps as Tip-Adapter-F's release has it, the one method that asks for AdamW
            return torch.optim.AdamW(parameters, lr=self.lr, weight_decay=self.weight_decay, eps=1e-4)
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum, weight_decay=self.weight_decay)

    def steps(self, num_images: int) -> int:
        """Return the number of steps on `num_images` images."""
        return self.epochs * math.ceil(num_images / self.batch_size)

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    @classmethod
    def resolve(cls, config: TuneConfig, num_images: int, num_classes: int, backbone: Backbone | None = None) -> Self:
        """Fill in what the config leaves open from the method's recipe, the backbone and the number of images."""
        from npt_core.methods import get_method

        method = get_method(config.method)
        recipe = method.recipe
        lr = config.lr or (recipe.lr if backbone is None else method.default_lr(backbone))
        batch_size = config.batch_size or recipe.batch_size
        epochs = config.epochs
        if epochs is None:
            affordable = MAX_DEFAULT_STEPS // max(1, math.ceil(num_images / batch_size))
            epochs = min(recipe.epochs(num_images / num_classes), max(MIN_DEFAULT_EPOCHS, affordable))
        return cls(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            warmup_epochs=min(recipe.warmup_epochs, epochs - 1),
            warmup_lr=min(recipe.warmup_lr, lr),
            optimizer=recipe.optimizer,
            logit_adjustment=config.logit_adjustment,
        )
