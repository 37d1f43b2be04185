"""One stage of a tuning: a fresh method tuned on some of the images, and what it says of others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from npt_core.collapse import CollapseSetup, Regularizer, get_regularizer
from npt_core.methods import ImageBatch, ImageInput, Method
from npt_core.tuning.checkpoint import Checkpointer
from npt_core.tuning.features import PixelSource
from npt_core.tuning.images import EncodedImages
from npt_core.tuning.logbook import Logbook
from npt_core.tuning.parentage import Keeper, Kept, guard_of
from npt_core.tuning.task import Task
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import Trainer, TrainResult

PREDICT_CHUNK = 256
PREDICT_CHUNK_PIXELS = 32
PREDICT_CHUNK_CONDITIONAL = 16
"""Images at once where every image has text features of its own."""


@dataclass
class Outcome:
    """A tuned method and how its tuning went.

    Attributes:
        before: Geometry before the first step.
        after: Geometry of the tuned method.
        pictures: What the classes looked like then: `initial` and `tuned`, see `collapse.picture`.
        kept: With a parent: what the tuning cost its classes and what was done about it.
    """

    method: Method
    result: TrainResult
    before: dict[str, float | None]
    after: dict[str, float | None]
    pictures: dict[str, Any]
    kept: Kept = field(default_factory=lambda: Kept())


class Stages:
    """Runs the stages of one tuning.

    Args:
        task: What is tuned.
        images: Its encoded images.
        checkpointer: Where a stage's state is kept and resumed from.
        log: What every stage reports to.
    """

    def __init__(self, task: Task, images: EncodedImages, checkpointer: Checkpointer, log: Logbook) -> None:
        self.task, self.images, self.checkpointer, self.log = task, images, checkpointer, log
        self.keeper = None if task.parent is None else Keeper(self)

    def tune(self, indices: Sequence[int], stage: str, title: str) -> Outcome:
        """Tune a fresh method.

        Args:
            indices: Positions of the training images in the data set.
            stage: Name of the stage in checkpoints.
            title: Its name for people.

        Raises:
            StopTuning: The control asked to stop.
            NonFiniteLossError: Tuning diverged, even in fp32.
            OutOfMemoryError: A step does not fit.
        """
        self.log.meter.enter("tuning", title)
        task, images = self.task, self.images
        labels = task.labels(indices)
        rows = images.rows_of(indices)
        pixels = None
        if task.method_class.image_input is ImageInput.PIXELS:
            pixels = PixelSource(task.backbone, task.dataset, indices)
            all_views = images.features.shape[1] == images.views
            frozen = images.features[rows] if task.method_class.reads_frozen_features and all_views else None
            data = TrainData(labels, images.views, frozen, pixels=pixels)
        else:
            tokens = None if images.tokens is None else images.tokens[rows]
            data = TrainData(labels, images.views, images.features[rows], tokens)
        method = task.new_method()
        start = {name: value.detach().clone() for name, value in method.state_dict().items()}
        task.fit_memory(method)
        guard, old = guard_of(task, images)
        trainer = Trainer(
            method,
            data,
            self._regularizer(labels),
            task.schedule(len(indices)),
            seed=task.config.seed,
            control=self.log.control,
            meter=self.log.meter,
            checkpointer=self.checkpointer,
            stage=stage,
            guard=guard,
        )
        try:
            result = trainer.run()
        finally:
            if old is not None:
                old.close()
            if pixels is not None:
                pixels.close()
        self.log.counters["steps"] += result.steps
        self._warn_about(result)
        kept = self.keeper.settle(method, start) if self.keeper is not None else Kept()
        kept.directions = guard.rank if guard is not None else 0
        after, drawn = trainer.look()
        pictures = {"initial": result.first_picture, "tuned": drawn}
        before = result.geometry[0] if result.geometry else {"epoch": 0, **after}
        return Outcome(method, result, {k: v for k, v in before.items() if k != "epoch"}, after, pictures, kept)

    def _regularizer(self, labels: Tensor) -> Regularizer:
        config, task = self.task.config, self.task
        cls = get_regularizer(str(config.regularizer))
        setup = CollapseSetup(
            frozen_text_features=task.zero_shot_text,
            num_images=torch.bincount(labels, minlength=len(task.classes)).to(task.backbone.device),
            seed=config.seed,
        )
        return cls(cls.Config.from_dict(config.regularizer_config), setup)

    def _warn_about(self, result: TrainResult) -> None:
        if result.fp32_retries:
            self.log.warnings.append(
                "The loss was not finite once; the tuning went on in fp32 from the last good step."
            )
        if result.chunk_halvings:
            self.log.warnings.append(
                "Memory was short; the class names were encoded in smaller chunks, which takes longer."
            )

    @torch.no_grad()
    def logits(self, method: Method, indices: Sequence[int]) -> Tensor:
        """Return (n, K) logits of images in their plain view; CPU."""
        task, images = self.task, self.images
        text = None
        if method.has_text_features and not method.text_depends_on_image:
            text = method.encode_text()
        chunk = PREDICT_CHUNK if text is not None or not method.text_depends_on_image else PREDICT_CHUNK_CONDITIONAL
        pixels = None
        if method.image_input is ImageInput.PIXELS:
            pixels = PixelSource(task.backbone, task.dataset, indices, max_bytes=0)
            chunk = PREDICT_CHUNK_PIXELS
        parts = []
        device = task.backbone.device
        for start in range(0, len(indices), chunk):
            self.log.control.check()
            part = indices[start : start + chunk]
            rows = images.plain_rows_of(part)
            batch = ImageBatch(
                features=images.plain[rows].to(device),
                tokens=None if images.plain_tokens is None else images.plain_tokens[rows].to(device),
                pixels=None if pixels is None else pixels.batch(range(start, start + len(part)), [0] * len(part)),
            )
            parts.append(method(batch, text).logits.float().cpu())
        if pixels is not None:
            pixels.close()
        return torch.cat(parts)

    def zero_shot_logits(self, indices: Sequence[int]) -> Tensor:
        """Return (n, K) zero-shot logits of images in their plain view; CPU."""
        return self.task.zero_shot_logits(self.images.plain[self.images.plain_rows_of(indices)])
