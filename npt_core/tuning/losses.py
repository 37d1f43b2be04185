"""What a step descends: the method's loss, the regulariser's terms, and the class means both may need."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from npt_core.collapse.base import ClassMeans, CollapseContext, Regularizer
from npt_core.collapse.geometry import class_means, within_class
from npt_core.methods.base import ImageBatch, Method, MethodOutput
from npt_core.tuning.traindata import TrainData


class TrainingLoss:
    """The loss of one method on one set of images.

    Args:
        method: Its classification loss and its own terms.
        data: The training images; means over them are taken once where the image path is frozen.
        regularizer: Added to the method's loss.
        logit_adjustment: Times the log of each class's share of the images is added to the logits in the loss.

    Attributes:
        fixed_means: (K, d) means over all views CE sees, on a frozen image path; else None.
        known: (K,) bool, which classes have an image, on a frozen image path; None where all do.
        moving: Moving means, on a learned image path; else None.
        within: Within-class variation on a frozen image path, see `geometry.within_class`.
    """

    def __init__(self, method: Method, data: TrainData, regularizer: Regularizer, logit_adjustment: float) -> None:
        self.method, self.data, self.regularizer = method, data, regularizer
        self.parameters = [parameter for parameter in method.parameters() if parameter.requires_grad]
        self.hand_combined = type(method).combine_gradients is not Method.combine_gradients
        self.own_losses: dict[str, Tensor] = {}
        self._set_up_means()
        self.adjustment = self._log_shares(logit_adjustment) if logit_adjustment else None

    def _set_up_means(self) -> None:
        """Class means over all views CE sees, once, on a frozen image path; moving ones on a learned path."""
        num_classes = self.method.num_classes
        self.fixed_means: Tensor | None = None
        self.known: Tensor | None = None
        self.moving: ClassMeans | None = None
        self.within: float | None = None
        if self.method.learns_image_path or self.data.features is None:
            self.moving = ClassMeans(
                num_classes, self.method.backbone.d, self.regularizer.memory_decay, self.method.backbone.device
            )
            return
        self.fixed_means = class_means(self.data.features, self.data.labels, num_classes)
        present = torch.bincount(self.data.labels, minlength=num_classes) > 0
        if not bool(present.all()):  # old classes of a parent, none of whose images are at hand
            self.known = present
            return
        self.within = within_class(self.data.features[:, 0], self.data.labels, num_classes)

    def means(self) -> Tensor | None:
        """Return the (K, d) class means as they are now; None while a class has none."""
        if self.moving is None:
            return self.fixed_means if self.known is None else None
        return self.moving.mean if bool(self.moving.seen.all()) else None

    def _log_shares(self, weight: float) -> Tensor:
        """Return (K,) what is added to the logits in the loss. Source: Menon et al., arXiv 2007.07314."""
        counts = torch.bincount(self.data.labels, minlength=self.method.num_classes).clamp_min(1).float()
        return weight * (counts / counts.sum()).log()

    def terms(self, batch: ImageBatch, output: MethodOutput) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the task loss (classification and regulariser) and every named term for the record."""
        assert batch.labels is not None  # noqa: S101 - for the type checker
        seen = output if self.adjustment is None else replace(output, logits=output.logits + self.adjustment)
        task = self.method.classification_loss(seen, batch.labels).float()
        terms = {"ce": task}
        if self.regularizer.active and output.text_features is not None:
            means, known = self.fixed_means, self.known
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

    def backward(self, task: Tensor) -> Tensor:
        """Fill in the gradients of what `terms` returned last, and return the detached total."""
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
