"""Audit a stored data set: every picture looked at once through a backbone, the findings kept with the data set."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import structlog

from npt_core.errors import Cancelled, StopTuning
from worker.context import JobContext
from worker.records import AuditStatus, Outcome
from worker.usecases.loading import load_backbone

if TYPE_CHECKING:
    from npt_core.audit import ContentAudit
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset
    from npt_core.tuning.control import ProgressSink

log = structlog.get_logger(__name__)

WITH_A_TUNING = 2_000
"""A tuning also audits a data set of up to so many pictures that nobody has looked at yet: it has most of their
features by then. Larger ones are left to an audit of their own."""


def run(context: JobContext) -> Outcome:
    """One attempt at an audit. Doing it twice does no harm: the same findings are kept again."""
    context.tell({"phase": "unpacking"})
    with context.services.datasets.open(context.spec.dataset_id or "") as dataset:
        context.control.check()
        backbone = load_backbone(context, context.spec.config.get("backbone"))
        audit = _look(context, dataset, backbone, context.progress)
    warnings = sum(one.severity == "warning" for one in audit.findings)
    return Outcome(counters=audit.counters, metrics={"findings": len(audit.findings), "warnings": warnings})


def _look(context: JobContext, dataset: Dataset, backbone: Backbone, progress: ProgressSink) -> ContentAudit:
    from npt_core.audit import audit_content

    audit = audit_content(
        dataset,
        backbone,
        cache=context.features,
        control=context.control,
        progress=progress,
    )
    if context.services.jobs.files.cancel_asked(context.spec.id):  # the control hears of it a second later
        raise Cancelled("The job was cancelled.")
    context.services.datasets.audits.keep(
        context.spec.dataset_id or "",
        [one.to_dict() for one in audit.findings],
        backbone=backbone.name,
        job_id=context.spec.id,
    )
    return audit


def audit_of_tuned(context: JobContext, dataset: Dataset, backbone: Backbone) -> dict[str, Any]:
    """The audit of the data set a job was tuned on, for its report; made here where it is cheap and missing.

    It comes after the tuning, whose features are cached by then. Whatever it stumbles over, the tuning stands.

    Raises:
        StopTuning: the job must stop.
    """
    datasets, dataset_id = context.services.datasets, context.spec.dataset_id or ""
    status = datasets.get(dataset_id).audit.status
    if status is not AuditStatus.DONE and not status.under_way and len(dataset) <= WITH_A_TUNING:
        try:
            _look(context, dataset, backbone, lambda told: context.progress(replace(told, phase="auditing")))
        except StopTuning:
            raise
        except Exception:
            log.exception("audit failed beside a tuning", dataset=dataset_id)
    return datasets.get(dataset_id).audit.model_dump(mode="json", include={"status", "backbone", "findings"})
