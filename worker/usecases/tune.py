"""Tune a classifier: the data set from the store, the backbone of this process, the core's `tune`, a model."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import replace
from threading import Thread
from typing import TYPE_CHECKING

from worker.context import JobContext
from worker.features import NotedCache
from worker.records import ModelDraft, Outcome

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone
    from npt_core.tuning.config import TuneConfig

LISTEN_S = 0.2


def run(context: JobContext) -> Outcome:
    """One attempt at a tuning. Torch is imported here and below, never in the worker's main process."""
    from npt_core.tuning.config import TuneConfig
    from npt_core.tuning.tune import tune
    from worker.backbones import load

    services, spec = context.services, context.spec
    config = TuneConfig.from_dict(spec.config)
    context.tell({"phase": "unpacking"})
    dataset_id = spec.dataset_id or ""
    with services.datasets.open(dataset_id) as dataset:
        context.control.check()
        backbone = _listening(context, lambda: load(services.settings, config.backbone, config.precision))
        result = tune(
            dataset,
            replace(config, backbone=backbone.name),
            backbone=backbone,
            cache=NotedCache(services.features(), context.mark),
            control=context.control,
            progress=context.progress,
            checkpoints=context.checkpoints,
            parent=_parent(context, config, backbone),
        )
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


def _listening(context: JobContext, work: Callable[[], Backbone]) -> Backbone:
    """Weights may be on their way over a slow line: be cancelled and drained meanwhile. A load that is left goes on."""
    done: Future[Backbone] = Future()

    def run_it() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    Thread(target=run_it, name="load backbone", daemon=True).start()
    while True:
        context.control.check()
        wait([done], timeout=LISTEN_S)
        if done.done():
            return done.result()


def _parent(context: JobContext, config: TuneConfig, backbone: Backbone) -> Classifier | None:
    if config.parent is None:
        return None
    from npt_core.classifier import Classifier

    return Classifier.load(context.services.models.folder(config.parent), backbone)
