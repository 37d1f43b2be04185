"""What a tuning came to, in writing: the report for people, the manifest of the classifier."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from typing import Any

import torch
from torch import Tensor

from npt_core.classifier import MANIFEST_FORMAT, describe_class
from npt_core.collapse.geometry import class_means, geometry, within_class
from npt_core.report import Report
from npt_core.tuning.calibrating import measure, to_store
from npt_core.tuning.evaluate import metrics, paired
from npt_core.tuning.examples import pick_examples
from npt_core.tuning.protocols import EvaluationPlan
from npt_core.tuning.recipes import AUTO
from npt_core.tuning.stages import Outcome, Stages
from npt_core.tuning.task import Task


def build_report(
    stages: Stages,
    plan: EvaluationPlan,
    tuned: Mapping[int, Tensor],
    outcome: Outcome,
    selection: dict[str, Any] | None,
) -> Report:
    """Measure and describe a tuning.

    Args:
        stages: With the task, its images and the log, which is warned where the numbers call for it.
        plan: How it was measured.
        tuned: (K,) logits of every measured image by its position in the data set; empty where none was measured.
        outcome: The shipped method.
        selection: What was chosen by cross-validation on the training images, and from what.
    """
    task, warnings = stages.task, stages.log.warnings
    on = list(plan.zero_shot_on)
    measured = [task.dataset.samples[i].path for i in on] if tuned else []
    if not tuned:
        warnings.append(f"The tuned prompt was not measured: {plan.reason}.")
    # (n, K) each; with thousands of classes a copy more for each question would take gigabytes.
    baseline = stages.zero_shot_logits(on)
    scores = torch.stack([tuned[i] for i in on]) if tuned else None
    found, calibration = _compare(stages, on, baseline, scores), _calibrate(stages, plan, baseline, scores)
    return Report(
        evaluation={
            "kind": plan.kind,
            "reason": plan.reason,
            "train_count": len(plan.folds[0].train) if plan.folds else len(plan.ship),
            "ship_count": len(plan.ship),
            "test_count": len(measured),
            "folds": len(plan.folds),
            "samples": measured,
            "answers": _answers(stages, on, baseline, scores),
        },
        metrics=found,
        calibration=calibration,
        refitted=plan.refit,
        geometry={
            "zero_shot": _zero_shot_geometry(stages, plan.ship),
            "initial": outcome.before,
            "tuned": outcome.after,
            "epochs": outcome.result.geometry,
            "pictures": outcome.pictures,
        },
        history=outcome.result.history,
        config={
            **task.config.to_dict(),
            "schedule": {**task.schedule(len(plan.ship)).to_dict(), "views": stages.images.views},
        },
        dataset=_describe_dataset(task, plan),
        backbone={name: getattr(task.backbone, name) for name in ("name", "fingerprint", "precision")},
        warnings=warnings,
        counters=stages.log.counters,
        selection=selection,
        examples=_examples(stages, on, baseline, scores, found, calibration),
        reproduce=_reproduce(task),
        parent=None if stages.keeper is None else stages.keeper.account(outcome, tuned),
    )


def _reproduce(task: Task) -> dict[str, Any]:
    """Return what gives the same classifier again: nothing is left to choose in this config."""
    backbone = task.backbone
    chosen = {"backbone": backbone.name, "precision": backbone.precision, "tuned_share": task.tuned_share}
    if task.parent is not None:
        chosen["keep_old"] = task.keeping
    return {
        "dataset_id": task.source_id,
        "old_dataset_ids": task.old_ids,
        "config": {**task.config.to_dict(), **chosen},
        "seeds": {"seed": task.config.seed, "sampling_seed": task.config.sampling_seed},
        "versions": versions(),
        "device": backbone.device.type,
    }


def _compare(stages: Stages, on: Sequence[int], baseline: Tensor, scores: Tensor | None) -> dict[str, Any]:
    """Return the metrics of zero-shot and of the tuned answers on the same images."""
    labels, names = stages.task.labels(on), [one.label for one in stages.task.classes]
    zero_shot = metrics(baseline, labels, names)
    if scores is None:
        return {"zero_shot": zero_shot, "tuned": None, "paired": None}
    measured, both = metrics(scores, labels, names), paired(baseline, scores, labels)
    worse = worse_than_zero_shot(zero_shot, measured, both, in_steps=stages.task.new_method().takes_steps)
    if worse is not None:
        stages.log.warnings.append(worse)
    return {"zero_shot": zero_shot, "tuned": measured, "paired": both}


def _answers(stages: Stages, on: Sequence[int], baseline: Tensor, scores: Tensor | None) -> dict[str, list[int]] | None:
    """Return what each measured image is and was taken for, as numbers of classes; None where nothing was measured."""
    if scores is None:
        return None
    return {
        "label": stages.task.labels(on).tolist(),
        "tuned": scores.argmax(dim=1).tolist(),
        "zero_shot": baseline.argmax(dim=1).tolist(),
    }


def _examples(
    stages: Stages,
    on: Sequence[int],
    baseline: Tensor,
    scores: Tensor | None,
    found: Mapping[str, Any],
    calibration: Mapping[str, Any] | None,
) -> dict[str, Any] | None:
    """Return pictures of mistakes, with the confidence that the stored model has; None where nothing was measured."""
    if scores is None:
        return None
    temperature = calibration["temperature"] if calibration else 1.0
    return pick_examples(stages, on, baseline, scores, temperature, found["tuned"]["most_confused"])


def _calibrate(stages: Stages, plan: EvaluationPlan, baseline: Tensor, scores: Tensor | None) -> dict[str, Any] | None:
    """Fit a temperature to the tuned answers and say what came of it; None where there is too little to go by."""
    if scores is None:
        return None  # it was said that nothing could be measured
    on, task = list(plan.zero_shot_on), stages.task
    told, warning = measure(
        scores,
        baseline,
        task.labels(on),
        [task.dataset.samples[i].sha256 for i in on],
        plan.kind,
    )
    if warning is not None:
        stages.log.warnings.append(warning)
    return told


def worse_than_zero_shot(
    zero_shot: Mapping[str, Any], tuned: Mapping[str, Any], both: Mapping[str, Any], *, in_steps: bool = True
) -> str | None:
    """Return a warning where tuning did not pay, or None.

    Args:
        zero_shot: See `evaluate.metrics`.
        tuned: The same on the same images.
        both: See `evaluate.paired`.
        in_steps: It was tuned in steps, so that fewer or smaller ones may help.
    """
    if tuned["accuracy"] >= zero_shot["accuracy"]:
        return None
    return (
        f"Tuned accuracy {tuned['accuracy']:.3f} is below zero-shot {zero_shot['accuracy']:.3f} on the same "
        f"{tuned['count']} images (p = {both['p_value']:.2g}): predict with model=zero-shot, or tune with "
        f"{'more images, fewer epochs or a lower learning rate' if in_steps else 'more images'}."
    )


def _zero_shot_geometry(stages: Stages, indices: Sequence[int]) -> dict[str, float | None]:
    task, images = stages.task, stages.images
    labels = task.labels(indices)
    features = images.features[images.rows_of(indices)]
    return geometry(
        task.zero_shot_text.cpu(),
        class_means(features, labels, len(task.classes)),
        scale=task.backbone.logit_scale,
        within=within_class(features[:, 0], labels, len(task.classes)),
    )


def _describe_dataset(task: Task, plan: EvaluationPlan) -> dict[str, Any]:
    counts = torch.bincount(task.labels(plan.ship), minlength=len(task.classes)).tolist()
    return {
        "id": task.source_id,
        "classes": [{**describe_class(one), "count": n} for one, n in zip(task.classes, counts, strict=True)],
        "splits": {split: len(samples) for split, samples in task.own.splits.items()},
        "left_out": [{"path": fault.path, "message": fault.message} for fault in task.left_out],
    }


def _assumed_frequencies(task: Task, plan: EvaluationPlan) -> list[float] | None:
    """Return the class frequencies that the scores take for granted; None: all the same.

    Measured (docs/decisions/0010): where each class has a bias of its own, the scores follow the shares of the training
    images; without one they do not. A mixture has the shares to the power of the tuned share.
    """
    if task.parent is not None:
        return None  # the images behind the parent's rows and keys are not in this plan
    counts = torch.bincount(task.labels(plan.ship), minlength=len(task.classes)).double()
    if not task.method_class.learns_class_shares or bool((counts == counts[0]).all()):
        return None
    shares: list[float] = (counts.pow(task.tuned_share) / counts.pow(task.tuned_share).sum()).tolist()
    return shares


def build_manifest(task: Task, plan: EvaluationPlan, report: Report) -> dict[str, Any]:
    """Return what is known about the shipped classifier, JSON-able; a warning goes to the report."""
    backbone, config = task.backbone, task.config
    calibration, warning = to_store(report.calibration, plan.kind, config.reject_below)
    if warning is not None:
        report.warnings.append(warning)
    samples = [{"path": task.dataset.samples[i].path, "sha256": task.dataset.samples[i].sha256} for i in plan.ship]
    return {
        "format": MANIFEST_FORMAT,
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "method": config.method,
        "method_config": dict(config.method_config),
        "classes": [describe_class(one) for one in task.classes],
        "config": report.config,
        "backbone": {
            "name": backbone.name,
            "kind": backbone.spec.kind,
            "fingerprint": backbone.fingerprint,
            "precision": backbone.precision,
            "logit_scale": backbone.logit_scale,
            "d": backbone.d,
        },
        "preprocess": backbone.preprocess.to_dict(),
        "dataset_id": report.dataset["id"],
        "samples": samples,
        "parent": config.parent,
        "seeds": {"seed": config.seed, "sampling_seed": config.sampling_seed},
        "versions": versions(),
        "metrics": report.summary(),
        "evaluation": {key: value for key, value in report.evaluation.items() if key not in ("samples", "answers")},
        "geometry": {key: report.geometry[key] for key in ("zero_shot", "initial", "tuned")},
        "refitted": report.refitted,
        "tuned_share": task.tuned_share,
        "calibration": calibration.to_manifest(),
        "assumed_frequencies": _assumed_frequencies(task, plan),
        **_inherited(task),
        "chosen_by": AUTO if task.requested.method == AUTO and report.selection is not None else None,
    }


def _inherited(task: Task) -> dict[str, Any]:
    """What the ancestors were tuned on, so that no descendant is ever measured on it."""
    if task.parent is None:
        return {}
    return {"inherited": {"datasets": list(task.lineage.datasets), "samples": sorted(task.seen)}}


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("npt-service", "torch", "open_clip_torch", "numpy", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
