"""The images a tuning needs, encoded once: views to tune on, the plain view to measure on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from npt_core.methods import ImageInput
from npt_core.tuning.config import resolve_views
from npt_core.tuning.features import FeatureCache, FeatureSet, encode_dataset
from npt_core.tuning.protocols import EvaluationPlan, plan_evaluation

if TYPE_CHECKING:
    from npt_core.errors import Fault
    from npt_core.tuning.logbook import Logbook
    from npt_core.tuning.task import Task


@dataclass
class EncodedImages:
    """Features of samples, found by their position in the data set.

    Attributes:
        views: V, views of each training image to tune on.
        features: (n, V, d) of the images that are tuned on; (n, 1, d) for methods on pixels, which make their own,
            unless they read the frozen ones as well.
        tokens: (n, V, T, d) token features of the same, where the method needs them.
        plain: (m, d) plain view of every image.
        plain_tokens: (m, T, d) token features of the same.
        row: Position in the data set to row of `features`.
        plain_row: Position in the data set to row of `plain`.
    """

    views: int
    features: Tensor
    tokens: Tensor | None
    plain: Tensor
    plain_tokens: Tensor | None
    row: dict[int, int]
    plain_row: dict[int, int]

    def rows_of(self, indices: Sequence[int]) -> list[int]:
        """Return the rows of `features` of samples that are tuned on."""
        return [self.row[i] for i in indices]

    def plain_rows_of(self, indices: Sequence[int]) -> list[int]:
        """Return the rows of `plain` of any samples."""
        return [self.plain_row[i] for i in indices]


def encode_needed(task: Task, cache: FeatureCache, log: Logbook) -> tuple[EvaluationPlan, EncodedImages]:
    """Plan how to measure and encode what the plan needs.

    Unreadable images are left out of the task, and the plan is made again without them.

    Raises:
        DatasetError: Too little is left.
        StopTuning: The control asked to stop.
    """
    while True:
        plan = plan_evaluation(task.own, task.config, task.seen).with_old(task.old)
        encoder = _Encoder(task, plan, cache, log)
        found = encoder.run()
        if isinstance(found, EncodedImages):
            log.counters["images_cached"] = max(0, encoder.distinct_views - log.counters["images_encoded"])
            return plan, found
        task.leave_out(found)


class _Encoder:
    """Encodes the images of one plan."""

    def __init__(self, task: Task, plan: EvaluationPlan, cache: FeatureCache, log: Logbook) -> None:
        self.task, self.plan, self.cache, self.log = task, plan, cache, log
        self.trained = plan.trained_on
        self.plain = sorted(set(plan.needed) - set(self.trained))
        self.views = resolve_views(task.config, len(self.trained))
        self.encoded_views = self.views if self._wants_views() else 1
        trained, plain = (len({task.dataset.samples[i].sha256 for i in part}) for part in (self.trained, self.plain))
        self.distinct_views = trained * self.encoded_views + plain

    def _wants_views(self) -> bool:
        """Whether frozen features of every view are wanted; else the plain view alone, for the baseline.

        A method on pixels that reads them would otherwise encode each picture frozen in every epoch.
        """
        method = self.task.method_class
        if method.image_input is not ImageInput.PIXELS:
            return True
        return method.reads_frozen_features and self.task.schedule(len(self.trained)).epochs >= self.views

    def run(self) -> EncodedImages | list[Fault]:
        """Return the features, or which images cannot be read."""
        meter = self.log.meter
        meter.expect("tuning", self.task.planned_steps(self.plan))
        meter.expect("encoding", meter.done("encoding") + self.distinct_views)
        meter.enter("encoding")
        first = self._encode(self.trained, self.encoded_views)
        second = self._encode(self.plain, 1)
        bad = [*first.bad, *second.bad]
        if bad:
            return bad
        features = [part.features[:, 0] for part in (first, second) if len(part.indices)]
        tokens = [part.tokens[:, 0] for part in (first, second) if part.tokens is not None and len(part.indices)]
        return EncodedImages(
            views=self.views,
            features=first.features,
            tokens=first.tokens,
            plain=torch.cat(features),
            plain_tokens=torch.cat(tokens) if tokens else None,
            row={index: number for number, index in enumerate(first.indices)},
            plain_row={index: number for number, index in enumerate([*first.indices, *second.indices])},
        )

    def _encode(self, indices: Sequence[int], views: int) -> FeatureSet:
        meter, counters = self.log.meter, self.log.counters

        def told(encoded: int, cached: int) -> None:
            counters["images_encoded"] += encoded
            if cached:
                meter.skip("encoding", cached)
            if encoded:
                meter.advance("encoding", encoded)
            meter.report()

        return encode_dataset(
            self.task.backbone,
            self.task.dataset,
            indices,
            views=views,
            cache=self.cache,
            control=self.log.control,
            progress=told,
            with_tokens=self.task.method_class.image_input is ImageInput.TOKENS,
        )
