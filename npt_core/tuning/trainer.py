"""The one training loop. It drives every method through the contract of `methods.base` and asks for no names.

Source: schedule and optimiser of CoOp, arXiv 2109.01134. Ours: cached views in place of fresh crops, resumable steps,
answers to non-finite losses and to memory running out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from npt_core.collapse.base import Regularizer
from npt_core.collapse.geometry import geometry
from npt_core.collapse.picture import picture
from npt_core.continual.nullspace import NullSpace
from npt_core.errors import Drained, NonFiniteLossError, OutOfMemoryError
from npt_core.methods.base import ImageBatch, Method
from npt_core.tuning.checkpoint import Checkpointer, StageState
from npt_core.tuning.config import Schedule
from npt_core.tuning.control import Control, GoOn
from npt_core.tuning.losses import TrainingLoss
from npt_core.tuning.memory import is_out_of_memory, release_cached_memory
from npt_core.tuning.meter import Meter
from npt_core.tuning.textgraph import TextStep
from npt_core.tuning.traindata import TrainData

MAX_GEOMETRY = 50
"""Geometry is measured at most so many times a stage."""

GEOMETRY_IMAGES = 64
"""Images over which image-conditional text features are measured."""


@dataclass
class TrainResult:
    """What a stage came to.

    Attributes:
        steps: Steps done in this process; a resumed stage counts only its own.
        history: For each epoch: epoch, lr, loss, accuracy and the mean of each named term.
        geometry: At most `MAX_GEOMETRY` measurements: epoch 0 (before the first step), then evenly spread.
        first_picture: What the classes looked like before the first step, see `collapse.picture`.
        fp32_retries: How often a step had to be done again in fp32.
        chunk_halvings: How often the prompts were split further for want of memory.
    """

    steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    geometry: list[dict[str, Any]] = field(default_factory=list)
    first_picture: dict[str, Any] | None = None
    fp32_retries: int = 0
    chunk_halvings: int = 0


@dataclass
class _Position:
    """Where the loop stands; everything here goes into a checkpoint."""

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    loss_sum: float = 0.0
    correct: int = 0
    images: int = 0
    terms: dict[str, float] = field(default_factory=dict)

    def start_epoch(self, epoch: int) -> None:
        self.epoch, self.step_in_epoch = epoch, 0
        self.loss_sum, self.correct, self.images, self.terms = 0.0, 0, 0, {}


class Trainer:
    """Tunes one method on one set of images.

    Args:
        method: Its parameters are learned in place.
        data: The training images.
        regularizer: Added to the method's loss.
        schedule: Epochs, batch size, learning rates.
        seed: Order of images and views.
        control: Checked before every step.
        meter: Told about every step (kind "tuning").
        checkpointer: Asked for a state to resume, given one every few seconds.
        stage: Name of this stage in checkpoints.
        guard: Takes out of every step what old images see.
    """

    def __init__(
        self,
        method: Method,
        data: TrainData,
        regularizer: Regularizer,
        schedule: Schedule,
        *,
        seed: int = 0,
        control: Control | None = None,
        meter: Meter | None = None,
        checkpointer: Checkpointer | None = None,
        stage: str = "tuning",
        guard: NullSpace | None = None,
    ) -> None:
        self.method, self.regularizer, self.schedule, self.stage = method, regularizer, schedule, stage
        self.data = data.to(method.backbone.device)
        self.control = control or GoOn()
        self.meter = meter or Meter(None)
        self.checkpointer = checkpointer or Checkpointer(None, "")
        self.order = torch.Generator().manual_seed(seed)
        self.epoch_start = self.order.get_state()
        self.at = _Position()
        self.result = TrainResult()
        self.parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.optimizer = schedule.optimizer_of(self.parameters) if self.parameters else None
        self.guard = guard
        self.last_good: tuple[list[Tensor], list[dict[str, Tensor]]] | None = None
        self.loss = TrainingLoss(method, self.data, regularizer, schedule.logit_adjustment)
        epochs = schedule.epochs
        self.text = TextStep(method, schedule.steps(len(self.data.labels)), hand_combined=self.loss.hand_combined)
        wanted = min(MAX_GEOMETRY - 1, epochs)
        self.geometry_epochs = {round(epochs * (i + 1) / wanted) for i in range(wanted)}

    # --- the loop -----------------------------------------------------------------------------------------------------

    def run(self) -> TrainResult:
        """Tune.

        Raises:
            StopTuning: From `control.check`; a drained stage saves itself first.
            NonFiniteLossError: The loss is not finite, even in fp32 from the last good step.
            OutOfMemoryError: A step does not fit, even with a single prompt at a time.
        """
        method, schedule = self.method, self.schedule
        resumed = self._resume()
        if not resumed:
            method.fit(self.data.features, self.data.labels)
        if self.optimizer is None:
            method.on_tuning_end(self.data.features, self.data.labels)
            return self.result
        method.train()
        try:
            if not resumed:
                measured, self.result.first_picture = self._measure(0)
                self.meter.report(force=True, epoch=0, geometry=measured, picture=self.result.first_picture)
                # At once: what came before (encoding, another stage) is then not charged to a worker killed early on.
                self.checkpointer.save(self.stage, self._state())
            for epoch in range(self.at.epoch, schedule.epochs):
                self._look_back(epoch)
                self._run_epoch(epoch)
                method.on_epoch_end(epoch + 1, schedule.epochs)
                self._close_epoch(epoch + 1)
        except Drained:
            self.checkpointer.save(self.stage, self._state())
            raise
        finally:
            method.eval()
        method.on_tuning_end(self.data.features, self.data.labels)
        return self.result

    def _look_back(self, epoch: int) -> None:
        """Let the guard look at old images where it is due."""
        if self.guard is None or self.at.step_in_epoch or not self.guard.is_due(epoch, self.schedule.epochs):
            return
        while True:
            try:
                self.guard.look(self.method, self.parameters, epoch, self.control)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            else:
                self.meter.restart()  # it is no part of a step
                return

    def _run_epoch(self, epoch: int) -> None:
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        batch_size = self.schedule.batch_size
        self.epoch_start = self.order.get_state()
        n = len(self.data.labels)
        device = self.data.labels.device
        rows = torch.randperm(n, generator=self.order).to(device)
        views = torch.randint(self.data.views, (n,), generator=self.order).to(device)
        for group in self.optimizer.param_groups:
            group["lr"] = self.schedule.lr_at(epoch)
        for start in range(self.at.step_in_epoch * batch_size, n, batch_size):
            self.control.check()
            self._step(rows[start : start + batch_size], views[start : start + batch_size])
            self.at.step_in_epoch += 1
            self.at.step += 1
            self.result.steps += 1
            self.meter.advance("tuning")
            self.meter.report(loss=self.at.loss_sum / self.at.images, accuracy=self._accuracy(), epoch=epoch)
            if self.checkpointer.due:
                self.checkpointer.save(self.stage, self._state())

    def _accuracy(self) -> float:
        return self.at.correct / self.at.images

    def _close_epoch(self, epoch: int) -> None:
        at = self.at
        entry = {"epoch": epoch, "lr": self.schedule.lr_at(epoch - 1), "loss": at.loss_sum / at.images}
        entry["accuracy"] = self._accuracy()
        entry.update({name: value / at.images for name, value in at.terms.items()})
        self.result.history.append(entry)
        measured, drawn = self._measure(epoch) if epoch in self.geometry_epochs else (None, None)
        told = {"loss": entry["loss"], "accuracy": entry["accuracy"], "epoch": epoch}
        self.meter.report(force=True, **told, geometry=measured, picture=drawn)
        at.start_epoch(epoch)
        self.epoch_start = self.order.get_state()

    # --- one step -----------------------------------------------------------------------------------------------------

    def _step(self, rows: Tensor, views: Tensor) -> None:
        batch = self.data.batch(rows, views)
        means = self.loss.moving
        before = means.state() if means is not None else None
        while True:
            try:
                if self._try_step(batch):
                    return
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self._halve(error)
            else:
                self._fall_back_to_fp32()
            if means is not None and before is not None:
                means.load(before)

    def _try_step(self, batch: ImageBatch) -> bool:
        """Do one step; False, with nothing learned, when the loss or a gradient is not finite."""
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        assert batch.labels is not None  # noqa: S101
        self.optimizer.zero_grad(set_to_none=True)
        output = self.method(batch, self.text())
        task, terms = self.loss.terms(batch, output)
        total = self.loss.backward(task)
        # One look at the device for everything: is it finite, how large is it, how many are right?
        norm = torch.stack([p.grad.float().norm() for p in self.parameters if p.grad is not None]).norm()
        right = (output.logits.detach().argmax(dim=1) == batch.labels).sum()
        numbers = torch.stack([total, norm, right.float(), *[term.detach().float() for term in terms.values()]])
        values = numbers.tolist()
        if not bool(torch.isfinite(numbers[:2]).all()):
            return False
        self._clip(values[1])
        before = self._remember()
        self.optimizer.step()
        if self.guard is not None:
            self.guard.spare(self.parameters, before)
        size = len(batch.labels)
        self.at.loss_sum += values[0] * size
        self.at.correct += int(values[2])
        self.at.images += size
        for name, value in zip(terms, values[3:], strict=True):
            self.at.terms[name] = self.at.terms.get(name, 0.0) + value * size
        return True

    def _clip(self, norm: float) -> None:
        """Shorten a gradient that is longer than the schedule allows: one spike must not undo a tuning."""
        limit = self.schedule.clip_norm
        if limit is None or norm <= limit:
            return
        for parameter in self.parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(limit / norm)

    # --- when something goes wrong ------------------------------------------------------------------------------------

    def _optimizer_state(self) -> list[dict[str, Tensor]]:
        """What the optimiser remembers of each parameter."""
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        state = self.optimizer.state
        return [{k: v for k, v in state[p].items() if isinstance(v, Tensor)} for p in self.parameters]

    def _load_optimizer_state(self, number: int, values: Mapping[str, Tensor]) -> None:
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        parameter = self.parameters[number]
        on_cpu = {"step"}  # AdamW counts there
        self.optimizer.state[parameter] = {
            key: value.clone() if key in on_cpu else value.to(parameter.device).clone() for key, value in values.items()
        }

    def _remember(self) -> list[Tensor]:
        values = [parameter.detach().clone() for parameter in self.parameters]
        states = [{key: value.clone() for key, value in one.items()} for one in self._optimizer_state()]
        self.last_good = (values, states)
        return values

    def _restore(self, values: Sequence[Tensor], states: Sequence[Mapping[str, Tensor]]) -> None:
        with torch.no_grad():
            for number, (parameter, value) in enumerate(zip(self.parameters, values, strict=True)):
                parameter.copy_(value)
                self._load_optimizer_state(number, states[number])

    def _fall_back_to_fp32(self) -> None:
        """Go back to before the last step and compute in fp32 from here on; give up where that was done already."""
        backbone = self.method.backbone
        if self.result.fp32_retries:
            raise NonFiniteLossError(
                f"The loss became NaN or infinite in step {self.at.step + 1} (epoch {self.at.epoch + 1}), and again in "
                f"fp32 from the last good step. Learning rate {self.schedule.lr:g} may be too high, or a weight of the "
                "regulariser too large: lower them and tune again."
            )
        self.result.fp32_retries += 1
        if self.last_good is not None:
            self._restore(*self.last_good)
        if backbone.precision not in ("fp32", "fp64"):
            self.text.drop("the towers were exchanged")
            self.method.__dict__["backbone"] = backbone.with_precision("fp32")

    def _halve(self, error: BaseException) -> None:
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        self.optimizer.zero_grad(set_to_none=True)
        self.text.drop("memory is short")
        release_cached_memory()
        if not self.method.halve_chunk():
            raise OutOfMemoryError(
                f"A tuning step does not fit into the memory of {self.method.backbone.device}, even with one prompt at "
                f"a time and {self.schedule.batch_size} images: lower batch_size, or use a smaller backbone."
            ) from error
        self.result.chunk_halvings += 1

    # --- geometry and checkpoints -------------------------------------------------------------------------------------

    def measure(self) -> dict[str, float | None]:
        """Measure the class geometry as it is now."""
        return self.look()[0]

    @torch.no_grad()
    def look(self) -> tuple[dict[str, float | None], dict[str, Any] | None]:
        """Measure the class geometry as it is now: its numbers, and what it looks like (see `collapse.picture`)."""
        method = self.method
        means = self.loss.means()
        text: Tensor | None = None
        labels: Tensor | None = None
        if method.has_text_features and not method.text_depends_on_image:
            text = method.encode_text()
        elif method.has_text_features:
            n, device = len(self.data.labels), self.data.labels.device
            rows = torch.linspace(0, n - 1, min(GEOMETRY_IMAGES, n), device=device).long()
            batch = self.data.batch(rows, torch.zeros_like(rows))
            text, labels = method(batch).text_features, batch.labels
        numbers = geometry(text, means, scale=method.scale, labels=labels, within=self.loss.within)
        return numbers, picture(text)

    def _measure(self, epoch: int) -> tuple[dict[str, float | None], dict[str, Any] | None]:
        measured, drawn = self.look()
        self.result.geometry.append({"epoch": epoch, **measured})
        return measured, drawn

    def _state(self) -> StageState:
        tensors = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        for number, kept in enumerate(self._optimizer_state()):
            tensors.update({f"optimizer.{number}.{key}": value for key, value in kept.items()})
        tensors.update({f"training.{name}": tensor for name, tensor in self.method.training_state().items()})
        if self.loss.moving is not None:
            tensors.update({f"means.{name}": tensor for name, tensor in self.loss.moving.state().items()})
        if self.guard is not None:
            tensors.update({f"guard.{name}": tensor for name, tensor in self.guard.state().items()})
        tensors["rng.order"] = self.epoch_start
        tensors["rng.method"] = self.method.generator.get_state()
        values = {
            "at": dict(vars(self.at)),
            "history": self.result.history,
            "geometry": self.result.geometry,
            "first_picture": self.result.first_picture,
            "fp32_retries": self.result.fp32_retries,
            "chunk": self.method.chunk,
        }
        return StageState(tensors, values)

    def _resume(self) -> bool:
        state = self.checkpointer.resume(self.stage)
        if state is None or self.optimizer is None:
            return False

        def part(prefix: str) -> dict[str, Tensor]:
            return {name[len(prefix) :]: t for name, t in state.tensors.items() if name.startswith(prefix)}

        self.method.load_training_state(part("training."))
        learned = part("method.")
        self.method.make_room({name: value.shape for name, value in learned.items()})
        self.method.load_state_dict(learned)
        for number in range(len(self.parameters)):
            if kept := part(f"optimizer.{number}."):
                self._load_optimizer_state(number, kept)
        if self.loss.moving is not None:
            self.loss.moving.load(part("means."))
        self.order.set_state(state.tensors["rng.order"])
        self.method.generator.set_state(state.tensors["rng.method"])
        self.at = _Position(**state.values["at"])
        self.result.history = state.values["history"]
        self.result.geometry = state.values["geometry"]
        self.result.first_picture = state.values.get("first_picture")  # a checkpoint of an earlier version has none
        self.result.fp32_retries = state.values["fp32_retries"]
        if self.result.fp32_retries and self.method.backbone.precision not in ("fp32", "fp64"):
            self.method.__dict__["backbone"] = self.method.backbone.with_precision("fp32")
        self.method.chunk = state.values["chunk"]
        if self.guard is not None:
            self.guard.look_again(self.method, self.parameters, part("guard."), self.control)
        self.meter.skip("tuning", self.at.step)
        return True
