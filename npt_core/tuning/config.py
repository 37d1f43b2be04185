"""The tune config: every setting of a tuning, validated together, all faults at once."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
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
    tuned_share: float | Literal["auto"] = setting(
        1.0,
        ge=0,
        le=1,
        doc="Share of the tuned logits in the answer, the rest is zero-shot (WiSE-style); auto: chosen by "
        "cross-validation on the training images, for about the cost of two more tunings. Method auto chooses its own.",
    )
    views: int | None = setting(
        None,
        ge=1,
        le=64,
        doc="Views of each image to tune on: the plain one and crops of it; null: by number of images.",
    )
    resize: Literal["crop", "pad", "squash"] | None = setting(
        None,
        doc="How a picture is fitted into the square the backbone sees: crop (its middle), pad (bars), squash (its "
        "shape is lost); null: as the backbone does by itself, or as the parent did. Predictions do the same.",
    )
    seed: int = setting(0, ge=0, le=2**53, doc="Seed of the training: initial context, order of images and views.")
    sampling_seed: int = setting(0, ge=0, le=2**53, doc="Seed of what is sampled: shots and the held-out part.")
    class_names: Mapping[str, str] = setting({}, max_length=100_000, doc="Folder name to the name used in prompts.")
    precision: Literal["auto", "fp32", "bf16", "fp16"] = setting("auto", doc="Compute precision of the towers.")
    refit: bool = setting(True, doc="After measuring on a held-out part, tune once more on all images and ship that.")
    reject_below: float | Literal["recommended"] | None = setting(
        None,
        ge=0,
        le=1,
        doc="Stored with the model: the probability under which an answer is marked rejected, where neither the "
        "request nor an alias says otherwise; recommended: what the report recommends, if anything; null: nothing is.",
    )
    parent: str | None = setting(
        None,
        max_length=200,
        doc="A model to go on from (id or alias): its classes stay, those of the images are added.",
    )
    keep_old: Literal["auto", "none", "replay", "null-space", "both"] = setting(
        "auto",
        doc="With a parent, how its classes are kept: replay (some of its images are tuned on again), null-space "
        "(steps move only where old images hardly see them), both, none; auto: what is possible, replay first.",
    )
    keep_strength: float = setting(
        1.0, ge=0, le=1, doc="With null-space: how much of a step that old images see is taken out of it."
    )
    max_old_loss: float | None = setting(
        None,
        ge=0,
        le=1,
        doc="With a parent: by how much the accuracy on its classes may fall. Past that, what was learned is taken "
        "back towards the parent until it holds on some old images; null: no bound, it is only measured.",
    )

    def __post_init__(self) -> None:
        from npt_core.collapse import check_pair
        from npt_core.methods import get_method

        super().__post_init__()
        if self.method == AUTO:
            return
        cls = get_method(self.method)
        check_pair(cls.name, moves_features=cls.moves_features, regularizer=str(self.regularizer))

    def conflicts(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        """Settings of the method and of the regulariser (filled in on the way), a share of nothing, empty names."""
        from npt_core.collapse import get_regularizer
        from npt_core.methods import get_method

        cls = None  # of the method; a name that there is not is reported below
        if "method" not in mistyped:
            with suppress(ConfigError):
                cls = get_method("coop" if self.method == AUTO else self.method)
        if not mistyped & {"method", "method_config"}:
            yield from self._fill("method", _method_settings)
        if not mistyped & {"method", "regularizer", "regularizer_config"}:
            if self.regularizer is None and cls is not None:
                object.__setattr__(self, "regularizer", "npt" if cls.moves_features else "none")
            if self.regularizer is not None:
                yield from self._fill("regularizer", lambda name: get_regularizer(name).Config)
        if "tuned_share" not in mistyped and self.tuned_share == AUTO and cls is not None and not cls.learns:
            yield Fault(
                "tuned_share",
                f"method {self.method!r} learns nothing, so there is no share to choose; leave tuned_share out, or use "
                "a method that learns",
            )
        if self.parent is None:
            yield from self._only_with_a_parent(mistyped)
        elif not mistyped & {"method", "parent"}:
            refusal = "it chooses among methods" if self.method == AUTO else cls.parent_refusal if cls else None
            if refusal:
                yield Fault("parent", f"method {self.method!r} cannot go on from a model: {refusal}")
        if "class_names" not in mistyped:
            for folder, name in self.class_names.items():
                if not name.strip():
                    yield Fault(f"class_names.{folder}", "the name is empty; give it in words")

    def _only_with_a_parent(self, mistyped: frozenset[str]) -> Iterable[Fault]:
        for item in fields(self):
            if item.name in ("keep_old", "keep_strength", "max_old_loss") and item.name not in mistyped:
                value = getattr(self, item.name)
                if value != item.default:
                    yield Fault(item.name, f"is {value!r} and there is no `parent`; give a parent, or leave it out")

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


def _method_settings(name: str) -> type[Settings]:
    """Return the settings of a method, or of auto, which is none.

    Raises:
        ConfigError: There is no such method; the message lists what may stand there.
    """
    from npt_core.methods import get_method, list_methods

    if name == AUTO:
        return AutoConfig
    known = [info.name for info in list_methods()]
    if name not in known:
        raise ConfigError(f"There is no method {name!r}; accepted: {', '.join([AUTO, *known])}.")
    return get_method(name).Config


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
        clip_norm: A longer gradient is shortened to this; None never does.
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
    clip_norm: float | None = None

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
        from npt_core.methods.base import REFERENCE_LOGIT_SCALE

        method = get_method(config.method)
        recipe = method.recipe
        settings = method.Config.from_dict(config.method_config)
        lr = config.lr or (recipe.lr if backbone is None else method.default_lr(backbone, settings))
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
            # The gradient of the cross-entropy carries the logit scale as a factor.
            clip_norm=None if backbone is None else recipe.clip_norm * backbone.logit_scale / REFERENCE_LOGIT_SCALE,
        )
