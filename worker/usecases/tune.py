"""Tune a classifier: the data set from the store, the backbone of this process, the core's `tune`, a model."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import structlog

from worker.context import JobContext
from worker.errors import WorkerError
from worker.records import ModelDraft, Outcome
from worker.usecases.audit import audit_of_tuned
from worker.usecases.loading import load_backbone

log = structlog.get_logger(__name__)

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset
    from npt_core.tuning.config import TuneConfig


def run(context: JobContext) -> Outcome:
    """One attempt at a tuning. Torch is imported here and below, never in the worker's main process."""
    from npt_core.tuning.config import TuneConfig
    from npt_core.tuning.tune import tune

    services, spec = context.services, context.spec
    config = TuneConfig.from_dict(spec.config)
    context.tell({"phase": "unpacking"})
    dataset_id = spec.dataset_id or ""
    with services.datasets.open(dataset_id) as dataset, ExitStack() as opened:
        context.control.check()
        backbone = load_backbone(context, config.backbone, config.precision)
        parent = _parent(context, config, backbone)
        result = tune(
            dataset,
            replace(config, backbone=backbone.name),
            backbone=backbone,
            cache=context.features,
            control=context.control,
            progress=context.progress,
            checkpoints=context.checkpoints,
            parent=parent,
            old=_old_datasets(context, parent, opened),
            memory_bytes=services.settings.step_memory_bytes,
        )
        audit = audit_of_tuned(context, dataset, backbone)
    result.classifier.report = {**(result.classifier.report or {}), "audit": audit}
    result.classifier.save(context.folder)
    manifest, report = result.classifier.manifest, result.report
    return Outcome(
        model=ModelDraft(
            name=spec.name,
            dataset_id=dataset_id,
            parent=config.parent,
            backbone=backbone.name,
            backbone_fingerprint=backbone.fingerprint,
            method=str(manifest["method"]),
            regularizer=str(config.regularizer),
            labels=result.classifier.labels,
            metrics=dict(manifest["metrics"]),
        ),
        warnings=tuple(result.warnings),
        counters={**result.counters, **{f"seconds_{phase}": value for phase, value in report.seconds.items()}},
        metrics=dict(manifest["metrics"]),
    )


def _parent(context: JobContext, config: TuneConfig, backbone: Backbone) -> Classifier | None:
    if config.parent is None:
        return None
    from npt_core.classifier import Classifier

    return Classifier.load(context.services.models.sound_folder(config.parent), backbone)


def _old_datasets(context: JobContext, parent: Classifier | None, opened: ExitStack) -> list[Dataset]:
    """The data sets behind a parent that are still here: one may be deleted, or on another server."""
    if parent is None:
        return []
    from npt_core.continual.old import Lineage

    found = []
    for dataset_id in Lineage.of(parent.manifest).datasets:
        try:
            found.append(opened.enter_context(context.services.datasets.open(dataset_id)))
        except WorkerError as error:
            log.info("data set of a parent left out", dataset=dataset_id, error=error.message)
    return found
