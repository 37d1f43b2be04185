"""The one training loop. It drives every method through the contract of `methods.base` and asks for no names.

Source: schedule and optimiser of CoOp, arXiv 2109.01134. Ours: cached views in place of fresh crops, resumable steps,
answers to non-finite losses and to memory running out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from npt_core.collapse.base import ClassMeans, CollapseContext, Regularizer
from npt_core.collapse.geometry import class_means, geometry, within_class
from npt_core.errors import Drained, NonFiniteLossError, OutOfMemoryError
from npt_core.methods.base import ImageBatch, Method, MethodOutput
from npt_core.tuning.checkpoint import Checkpointer, StageState
from npt_core.tuning.config import Schedule
from npt_core.tuning.control import Control, GoOn
from npt_core.tuning.features import PixelSource
from npt_core.tuning.memory import is_out_of_memory, release_cached_memory
from npt_core.tuning.meter import Meter

MAX_GEOMETRY = 50
"""Geometry is measured at most so many times a stage."""

GEOMETRY_IMAGES = 64
"""Images over which image-conditional text features are measured."""


@dataclass
class TrainData:
    """The n training images, as much of each as the method needs.

    Attributes:
        labels: (n,) class indices.
        views: V, how many views of each image there are.
        features: (n, V, d) unit-norm features of the frozen tower; None only for methods on pixels.
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


@dataclass
class TrainResult:
    """What a stage came to.

    Attributes:
        steps: Steps done in this process; a resumed stage counts only its own.
        history: For each epoch: epoch, lr, loss, accuracy and the mean of each named term.
        geometry: At most `MAX_GEOMETRY` measurements: epoch 0 (before the first step), then evenly spread.
        fp32_retries: How often a step had to be done again in fp32.
        chunk_halvings: How often the prompts were split further for want of memory.
    """

    steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    geometry: list[dict[str, Any]] = field(default_factory=list)
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
        self.hand_combined = type(method).combine_gradients is not Method.combine_gradients
        self.last_good: tuple[list[Tensor], list[dict[str, Tensor]]] | None = None
        self._set_up_means()
        self.adjustment = self._log_shares() if schedule.logit_adjustment else None
        epochs = schedule.epochs
        wanted = min(MAX_GEOMETRY - 1, epochs)
        self.geometry_epochs = {round(epochs * (i + 1) / wanted) for i in range(wanted)}

    def _set_up_means(self) -> None:
        """Class means over all views CE sees, once, on a frozen image path; moving ones on a learned path."""
        num_classes = self.method.num_classes
        self.fixed_means: Tensor | None = None
        self.moving: ClassMeans | None = None
        self.within: float | None = None
        if self.method.learns_image_path or self.data.features is None:
            self.moving = ClassMeans(
                num_classes, self.method.backbone.d, self.regularizer.memory_decay, self.method.backbone.device
            )
            return
        self.fixed_means = class_means(self.data.features, self.data.labels, num_classes)
        self.within = within_class(self.data.features[:, 0], self.data.labels, num_classes)

    def _log_shares(self) -> Tensor:
        """Return (K,) what is added to the logits in the loss. Source: Menon et al., arXiv 2007.07314."""
        counts = torch.bincount(self.data.labels, minlength=self.method.num_classes).clamp_min(1).float()
        return self.schedule.logit_adjustment * (counts / counts.sum()).log()

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
                self._measure(0)
                # At once: what came before (encoding, another stage) is then not charged to a worker killed early on.
                self.checkpointer.save(self.stage, self._state())
            for epoch in range(self.at.epoch, schedule.epochs):
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
        measured = self._measure(epoch) if epoch in self.geometry_epochs else None
        self.meter.report(force=True, loss=entry["loss"], accuracy=entry["accuracy"], epoch=epoch, geometry=measured)
        at.start_epoch(epoch)

    # --- one step -----------------------------------------------------------------------------------------------------

    def _step(self, rows: Tensor, views: Tensor) -> None:
        batch = self.data.batch(rows, views)
        moving = self.moving.state() if self.moving is not None else None
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
            if moving is not None and self.moving is not None:
                self.moving.load(moving)

    def _try_step(self, batch: ImageBatch) -> bool:
        """Do one step; False, with nothing learned, when the loss or a gradient is not finite."""
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        assert batch.labels is not None  # noqa: S101
        self.optimizer.zero_grad(set_to_none=True)
        output = self.method(batch)
        task, terms = self._losses(batch, output)
        total = self._backward(task, terms)
        # One look at the device for everything: is it finite, how large is it, how many are right?
        norms = torch.stack([p.grad.float().norm() for p in self.parameters if p.grad is not None])
        right = (output.logits.detach().argmax(dim=1) == batch.labels).sum()
        numbers = torch.stack([total, norms.sum(), right.float(), *[term.detach().float() for term in terms.values()]])
        values = numbers.tolist()
        if not bool(torch.isfinite(numbers[:2]).all()):
            return False
        self._remember()
        self.optimizer.step()
        size = len(batch.labels)
        self.at.loss_sum += values[0] * size
        self.at.correct += int(values[2])
        self.at.images += size
        for name, value in zip(terms, values[3:], strict=True):
            self.at.terms[name] = self.at.terms.get(name, 0.0) + value * size
        return True

    def _losses(self, batch: ImageBatch, output: MethodOutput) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the task loss (classification and regulariser) and every named term for the record."""
        assert batch.labels is not None  # noqa: S101 - for the type checker
        seen = output if self.adjustment is None else replace(output, logits=output.logits + self.adjustment)
        task = self.method.classification_loss(seen, batch.labels).float()
        terms = {"ce": task}
        if self.regularizer.active and output.text_features is not None:
            means, known = self.fixed_means, None
            if self.moving is not None:
                means, known = self.moving.update(output.image_features, batch.labels)
            assert means is not None  # noqa: S101
            context = CollapseContext(output.text_features, output.image_features, batch.labels, means, known)
            for name, term in self.regularizer.losses(context).items():
                terms[name] = term
                task = task + term
        elif self.moving is not None:
            self.moving.update(output.image_features.detach(), batch.labels)
        self.own_losses = dict(self.method.named_losses(batch, output))
        terms.update(self.own_losses)
        return task, terms

    def _backward(self, task: Tensor, terms: Mapping[str, Tensor]) -> Tensor:
        """Fill in the gradients and return the detached total."""
        total = task
        for loss in self.own_losses.values():
            total = total + loss
        if not self.hand_combined:
            total.backward()  # type: ignore[no-untyped-call]
            return total.detach()
        gradients: dict[str, Sequence[Tensor]] = {}
        for name, loss in {"task": task, **self.own_losses}.items():
            taken = torch.autograd.grad(loss, self.parameters, retain_graph=True, allow_unused=True)
            gradients[name] = [
                torch.zeros_like(p) if g is None else g for p, g in zip(self.parameters, taken, strict=True)
            ]
        for parameter, gradient in zip(self.parameters, self.method.combine_gradients(gradients), strict=True):
            parameter.grad = gradient
        return total.detach()

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

    def _remember(self) -> None:
        self.last_good = (
            [parameter.detach().clone() for parameter in self.parameters],
            [{key: value.clone() for key, value in one.items()} for one in self._optimizer_state()],
        )

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
            self.method.__dict__["backbone"] = backbone.with_precision("fp32")

    def _halve(self, error: BaseException) -> None:
        assert self.optimizer is not None  # noqa: S101 - for the type checker
        self.optimizer.zero_grad(set_to_none=True)
        release_cached_memory()
        if not self.method.halve_chunk():
            raise OutOfMemoryError(
                f"A tuning step does not fit into the memory of {self.method.backbone.device}, even with one prompt at "
                f"a time and {self.schedule.batch_size} images: lower batch_size, or use a smaller backbone."
            ) from error
        self.result.chunk_halvings += 1

    # --- geometry and checkpoints -------------------------------------------------------------------------------------

    @torch.no_grad()
    def measure(self) -> dict[str, float | None]:
        """Measure the class geometry as it is now."""
        method = self.method
        means = self.fixed_means if self.moving is None else self.moving.mean
        if self.moving is not None and not bool(self.moving.seen.all()):
            means = None
        text: Tensor | None = None
        labels: Tensor | None = None
        if method.has_text_features and not method.text_depends_on_image:
            text = method.encode_text()
        elif method.has_text_features:
            n, device = len(self.data.labels), self.data.labels.device
            rows = torch.linspace(0, n - 1, min(GEOMETRY_IMAGES, n), device=device).long()
            batch = self.data.batch(rows, torch.zeros_like(rows))
            text, labels = method(batch).text_features, batch.labels
        return geometry(text, means, scale=method.scale, labels=labels, within=self.within)

    def _measure(self, epoch: int) -> dict[str, float | None]:
        measured = self.measure()
        self.result.geometry.append({"epoch": epoch, **measured})
        return measured

    def _state(self) -> StageState:
        tensors = {f"method.{name}": tensor for name, tensor in self.method.state_dict().items()}
        for number, kept in enumerate(self._optimizer_state()):
            tensors.update({f"optimizer.{number}.{key}": value for key, value in kept.items()})
        tensors.update({f"training.{name}": tensor for name, tensor in self.method.training_state().items()})
        if self.moving is not None:
            tensors.update({f"means.{name}": tensor for name, tensor in self.moving.state().items()})
        tensors["rng.order"] = self.epoch_start
        tensors["rng.method"] = self.method.generator.get_state()
        values = {
            "at": dict(vars(self.at)),
            "history": self.result.history,
            "geometry": self.result.geometry,
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
        if self.moving is not None:
            self.moving.load(part("means."))
        self.order.set_state(state.tensors["rng.order"])
        self.method.generator.set_state(state.tensors["rng.method"])
        self.at = _Position(**state.values["at"])
        self.result.history = state.values["history"]
        self.result.geometry = state.values["geometry"]
        self.result.fp32_retries = state.values["fp32_retries"]
        if self.result.fp32_retries and self.method.backbone.precision not in ("fp32", "fp64"):
            self.method.__dict__["backbone"] = self.method.backbone.with_precision("fp32")
        self.method.chunk = state.values["chunk"]
        self.meter.skip("tuning", self.at.step)
        return True
