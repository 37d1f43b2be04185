"""Compare models on labelled images: each of them, and zero-shot, asked about the same ones."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from worker.context import JobContext
from worker.records import ModelRecord, Outcome
from worker.usecases.loading import load_backbone

if TYPE_CHECKING:
    from npt_core.classifier import Classifier
    from npt_core.clip.backbone import Backbone
    from npt_core.compare import Contestant

COMPARISON = "comparison.json"


def run(context: JobContext) -> Outcome:
    """One attempt at a comparison; doing it twice does no harm, and what was encoded is not encoded again."""
    from npt_core.compare import compare
    from npt_core.report.facts import finite

    services, config = context.services, context.spec.config
    context.tell({"phase": "unpacking"})
    contestants = [_contestant(context, model_id) for model_id in config["models"]]
    with services.datasets.open(context.spec.dataset_id or "") as dataset:
        context.control.check()
        comparison = compare(
            dataset,
            contestants,
            lambda name: load_backbone(context, name),
            split=config["split"],
            among=config["among"],
            seen=config["seen"],
            cache=context.features,
            control=context.control,
            progress=context.progress,
        )
    found = finite(comparison.to_dict())  # a tower in half precision may answer NaN, which JSON has no word for
    (context.results / COMPARISON).write_text(json.dumps(found, allow_nan=False), encoding="utf-8")
    return Outcome(warnings=tuple(comparison.warnings), metrics=comparison.summary())


def _contestant(context: JobContext, model_id: str) -> Contestant:
    from npt_core.compare import Contestant

    models = context.services.models
    record = models.get(model_id)

    def load(backbone: Backbone) -> Classifier:
        from npt_core.classifier import Classifier

        return Classifier.load(models.sound_folder(model_id), backbone)

    return Contestant(model_id, load, record.backbone, models.manifest(model_id), _facts(record))


def _facts(record: ModelRecord) -> dict[str, Any]:
    return {
        "model": record.id,
        "title": record.name,
        "version": record.version,
        "method": record.method,
        "regularizer": record.regularizer,
        "backbone": record.backbone,
    }
