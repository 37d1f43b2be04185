"""What is tuned: labelled images of named classes, a config and frozen towers; and fresh methods for them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import safetensors.torch
import torch
from torch import Tensor

from npt_core.classifier import describe_class
from npt_core.continual.keeping import how_to_keep
from npt_core.continual.old import Lineage, OldParts, deal, gather
from npt_core.errors import Fault
from npt_core.methods import Method, get_method
from npt_core.tuning.config import Schedule, TuneConfig
from npt_core.tuning.memory import step_budget
from npt_core.tuning.naming import name_classes
from npt_core.tuning.protocols import EvaluationPlan, inner_folds
from npt_core.tuning.recipes import AUTO
from npt_core.tuning.select import as_recipe

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset


class Task:
    """What every stage of a tuning works on.

    Args:
        dataset: The labelled images; those that turn out unreadable leave with `leave_out`.
        requested: What was asked for.
        backbone: The frozen towers.
        parent: Its learned parameters are where every fresh method starts, and its classes stay.
        old: Data sets that the parent and its ancestors were tuned on, as far as they are at hand.
        memory_bytes: What a step may take, see `memory.step_budget`.

    Attributes:
        dataset: The images, and behind them old ones that may be used.
        own: The images that were handed in, at the same positions.
        old: Which old images are used, and for what.
        keeping: How the parent's classes are kept: none, replay, null-space or both.
        seen: SHA-256 of the images that the parent was tuned on.
        config: What is tuned now. It differs from `requested` where auto puts its candidates, then its choice, in.
        tuned_share: Share of the tuned logits in the answer; 1 until it is chosen where the config leaves it open.
        classes: The K classes in the order of the logits.
        left_out: Images that could not be read.
        source_id: Id of the data set that was handed in, whichever pictures of it turn out unreadable.
        old_ids: Ids of the old data sets that were handed in.

    Raises:
        ConfigError: `class_names` speaks of classes that do not exist.
    """

    def __init__(
        self,
        dataset: Dataset,
        requested: TuneConfig,
        backbone: Backbone,
        parent: Classifier | None,
        old: Sequence[Dataset] = (),
        memory_bytes: int = 0,
    ) -> None:
        self.memory_bytes = memory_bytes
        self.own, self.requested, self.backbone, self.parent = dataset, requested, backbone, parent
        self.source_id = dataset.id
        self._old_sets, self.old_ids = old, [one.id for one in old]
        self.lineage = Lineage() if parent is None else Lineage.of(parent.manifest)
        self.seen = self.lineage.samples
        self.left_out: list[Fault] = []
        # Until auto has chosen, CoOp stands in its place: it refuses names early.
        self.use(as_recipe(requested, "coop") if requested.method == AUTO else requested)
        self._old_classes = () if parent is None else parent.method.classes
        self.classes = name_classes(dataset, requested, self._old_classes)
        self._zero_shot_text: Tensor | None = None
        self._gather()

    def _gather(self) -> None:
        """Join the old images to the new ones, and deal them to their parts."""
        self.dataset, self.old, self.keeping = self.own, OldParts(), "none"
        if self.parent is None:
            return
        labels = {one.label for one in self._old_classes}
        bad = {fault.path for fault in self.left_out}
        self.dataset, found = gather(self.own, self._old_sets, labels, bad)
        self.keeping = how_to_keep(self.config.keep_old, self.method_class, bool(found), self.parent.memory is not None)
        choose, seed = self.config.max_old_loss is not None, self.config.sampling_seed
        self.old = deal(self.dataset, found, self.seen, keeping=self.keeping, choose=choose, seed=seed)

    def close(self) -> None:
        """Close what was opened to read old images."""
        if self.dataset is not self.own:
            self.dataset.reader.release()

    def use(self, config: TuneConfig) -> None:
        """Go on with another config than the requested one."""
        self.config, self.method_class = config, get_method(config.method)
        self.tuned_share: float = 1.0 if isinstance(config.tuned_share, str) else config.tuned_share

    def leave_out(self, bad: Sequence[Fault]) -> None:
        """Go on without unreadable images, and without classes that have no other.

        Raises:
            DatasetError: Too little is left.
        """
        self.left_out.extend(bad)
        self.own = self.own.without(bad)
        left = {*self.own.labels, *(one.label for one in self._old_classes)}
        self.classes = [one for one in self.classes if one.label in left]
        self.close()
        self._gather()
        self._zero_shot_text = None

    def key(self) -> str:
        """Return the hash of everything that decides the course of this tuning."""
        facts = {
            "config": replace(self.requested, backbone=None, precision="auto").to_dict(),
            "classes": [describe_class(one) for one in self.classes],
            "samples": [[s.split, s.label, s.sha256] for s in self.dataset.samples],
            "backbone": [self.backbone.fingerprint, self.backbone.precision],
        }
        if self.parent is not None:  # by what it learned: an id may be anybody's
            facts["parent"] = hashlib.sha256(safetensors.torch.save(self.parent.tensors())).hexdigest()
            facts["seen"] = sorted(self.seen)
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    # --- labels and zero-shot -----------------------------------------------------------------------------------------

    def labels(self, indices: Sequence[int]) -> Tensor:
        """Return the (n,) class indices of samples."""
        number = {one.label: position for position, one in enumerate(self.classes)}
        return torch.tensor([number[self.dataset.samples[i].label] for i in indices], dtype=torch.int64)

    @property
    def zero_shot_text(self) -> Tensor:
        """(K, d) frozen text features of the hand-written prompts, encoded once."""
        if self._zero_shot_text is None:
            self._zero_shot_text = self.new_method().zero_shot_text()
        return self._zero_shot_text

    def zero_shot_logits(self, features: Tensor) -> Tensor:
        """Return the (n, K) zero-shot logits of (n, d) image features; CPU."""
        return self.backbone.logit_scale * features @ self.zero_shot_text.cpu().t()

    # --- methods ------------------------------------------------------------------------------------------------------

    def new_method(self) -> Method:
        """Return an untuned method, which starts from the parent where there is one.

        Raises:
            IncompatibleError: The parent's parameters do not fit.
            FingerprintMismatchError: The parent was tuned on another backbone.
        """
        generator = torch.Generator().manual_seed(self.config.seed)
        config = self.method_class.Config.from_dict(self.config.method_config)
        method = self.method_class(config, self.backbone, self.classes, generator=generator).to(self.backbone.device)
        if self.parent is not None:
            self.backbone.require_fingerprint(self.parent.backbone.fingerprint, what="The parent model")
            method.start_from(self.parent.method)
        return method

    def fit_memory(self, method: Method) -> None:
        """Have a method work on no more at once than a step may take."""
        batch_size = self.schedule(len(self.dataset.samples)).batch_size
        method.fit_memory(step_budget(self.backbone.device, self.memory_bytes), batch_size)

    def schedule(self, num_images: int) -> Schedule:
        """Return the schedule of one tuning on so many images."""
        return Schedule.resolve(self.config, num_images, len(self.dataset.labels), self.backbone)

    def steps(self, num_images: int) -> int:
        """Return the steps of one tuning on so many images."""
        return self.schedule(num_images).steps(num_images) if self.new_method().takes_steps else 0

    def planned_steps(self, plan: EvaluationPlan) -> int:
        """Return the steps of all tunings of a plan, those that choose the share among them."""
        sizes = [len(fold.train) for fold in plan.folds]
        if self.config.tuned_share == AUTO:
            folds = inner_folds(self.dataset, plan, self.config.sampling_seed, self.seen)
            sizes += [len(fold.train) for fold in folds]
        if plan.refit or not plan.folds:
            sizes.append(len(plan.ship))
        return sum(map(self.steps, sizes))
