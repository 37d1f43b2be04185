"""What a tuning chooses before it is measured: auto's recipe, or the share of the tuned answer.

Candidates are tuned on inner folds of the training images; the images that the report is measured on take no part.
`select` decides, here its candidates are tuned.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from npt_core.tuning.config import TuneConfig
from npt_core.tuning.protocols import EvaluationPlan, Fold, inner_folds, why_no_inner_folds
from npt_core.tuning.recipes import AUTO
from npt_core.tuning.select import TrialImages, select, select_share
from npt_core.tuning.stages import Stages


def choose(stages: Stages, plan: EvaluationPlan) -> dict[str, Any] | None:
    """Choose what the config leaves open and go on with it.

    Returns:
        What it was chosen from, for the report; None where there was nothing to choose, or nothing to choose by.
    """
    task = stages.task
    if AUTO not in (task.requested.method, task.config.tuned_share):
        return None
    folds = inner_folds(task.dataset, plan, task.config.sampling_seed, task.seen)
    if not folds:
        what = "a method by" if task.requested.method == AUTO else "tuned_share by"
        used = "coop was used" if task.requested.method == AUTO else "it is 1"
        reason = why_no_inner_folds(plan)
        stages.log.warnings.append(f"There are too few images to choose {what}: {used} ({reason}).")
        return None
    tested = [i for fold in folds for i in fold.test]
    images = TrialImages(folds, task.labels(tested), stages.zero_shot_logits(tested))
    untested = len(task.classes) - len(set(images.labels.tolist()))
    if untested:
        stages.log.warnings.append(
            f"{untested} of {len(task.classes)} classes have a single image beside the measured ones: what was chosen "
            "was not compared on them."
        )
    if task.requested.method == AUTO:
        return _choose_recipe(stages, plan, images)
    return _choose_share(stages, images)


def _choose_recipe(stages: Stages, plan: EvaluationPlan, images: TrialImages) -> dict[str, Any]:
    task, meter = stages.task, stages.log.meter

    def attempt(config: TuneConfig, name: str, number: int) -> tuple[Tensor, float]:
        if number == 0:
            task.use(config)
            ahead = sum(task.steps(len(fold.train)) for fold in images.folds)
            meter.expect("tuning", meter.done("tuning") + ahead)
        return _try(stages, name, number, images.folds)

    found = select(task.requested, images, attempt)
    task.use(found.config)
    stages.log.warnings.extend(found.warnings)
    meter.expect("tuning", meter.done("tuning") + task.planned_steps(plan))
    return found.table


def _choose_share(stages: Stages, images: TrialImages) -> dict[str, Any]:
    def attempt(config: TuneConfig, name: str, number: int) -> tuple[Tensor, float]:
        return _try(stages, name, number, images.folds)

    found = select_share(stages.task.config, images, attempt)
    stages.task.tuned_share = found.chosen.tuned_share
    stages.log.warnings.extend(found.warnings)
    return found.table


def _try(stages: Stages, name: str, number: int, folds: tuple[Fold, ...]) -> tuple[Tensor, float]:
    """Return (n, K) logits of a candidate on one inner fold, and the seconds it took, also where it is known."""
    stage, fold, meter = f"auto-{name}-{number}", folds[number], stages.log.meter
    known = stages.checkpointer.finished.get(stage)
    if known is not None:
        meter.skip("tuning", stages.task.steps(len(fold.train)))
        return torch.tensor(known["logits"]), float(known["seconds"])
    started = meter.clock()
    outcome = stages.tune(fold.train, stage, f"choosing: {name}, fold {number + 1} of {len(folds)}")
    scores = stages.logits(outcome.method, fold.test)
    seconds = meter.clock() - started
    stages.checkpointer.finish(stage, {"logits": scores.tolist(), "seconds": seconds})
    return scores, seconds
