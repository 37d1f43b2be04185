"""From a data set and a config to a classifier and a report: the whole of a tuning, with no service around it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from npt_core.classifier import Classifier
from npt_core.continual.keeping import reads_memory
from npt_core.continual.settings import check_fit, continued
from npt_core.errors import ConfigError
from npt_core.methods import Method
from npt_core.mixture import mixed
from npt_core.opening import backbone_to_tune, opened_dataset
from npt_core.report import Report
from npt_core.tuning.checkpoint import Checkpointer
from npt_core.tuning.choosing import choose
from npt_core.tuning.config import TuneConfig
from npt_core.tuning.control import CheckpointStore, Control, GoOn, ProgressSink
from npt_core.tuning.features import FeatureCache, MemoryFeatureCache
from npt_core.tuning.images import encode_needed
from npt_core.tuning.logbook import Logbook
from npt_core.tuning.memory import is_out_of_memory, release_cached_memory
from npt_core.tuning.meter import Meter
from npt_core.tuning.naming import unseen_words_warning
from npt_core.tuning.parentage import remembered
from npt_core.tuning.protocols import EvaluationPlan
from npt_core.tuning.results import build_manifest, build_report
from npt_core.tuning.stages import Outcome, Stages
from npt_core.tuning.task import Task

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.data.dataset import Dataset

SHIPPED = "shipped"


@dataclass
class TuneResult:
    """What `tune` returns.

    Attributes:
        classifier: Ready to predict and to save.
        report: Zero-shot beside tuned, geometry, how it was measured.
        warnings: For the job and its user.
        counters: `images_encoded` (views that went through the image tower), `images_cached` (views that came from
            the cache), `steps`.
    """

    classifier: Classifier
    report: Report
    warnings: list[str]
    counters: dict[str, int]


def tune(
    source: Dataset | Path | str,
    config: TuneConfig | Mapping[str, Any] | None = None,
    *,
    backbone: Backbone | str | None = None,
    cache: FeatureCache | None = None,
    control: Control | None = None,
    progress: ProgressSink | None = None,
    checkpoints: CheckpointStore | None = None,
    parent: Classifier | None = None,
    old: Sequence[Dataset] = (),
    memory_bytes: int = 0,
) -> TuneResult:
    """Tune a classifier on a handful of labelled images.

    Args:
        source: The labelled images: a data set, or a folder or zip of one.
        config: Settings; all optional.
        backbone: The frozen towers: loaded (who tunes more than once loads them once), or the words of
            `load_backbone`. None: the parent's, else `config.backbone` in `config.precision`, else the demo.
        cache: Image features of earlier tunings; by default none is kept.
        control: Checked at every step and inside encode loops.
        progress: Told where the work stands, about ten times a second at most.
        checkpoints: Where a blob is kept to resume from; a blob of another tuning is ignored.
        parent: The classifier `config.parent` names; its learned parameters are the start, its classes stay. Where
            `config` is a mapping, what it leaves out of method and regulariser is the parent's.
        old: Data sets that the parent and its ancestors were tuned on, as far as they are at hand: some of their images
            are tuned on again, others show what became of the parent's classes.
        memory_bytes: What a step may take between its forward and its backward pass; prompts that need more are cut
            into chunks, which are computed twice. 0: half of what is free, on the CPU at most 2 GiB.

    Returns:
        The classifier, the report, warnings and counters.

    Raises:
        ConfigError: A setting cannot be used; for pairs that make no sense, IncompatibleError.
        BackboneError: The backbone cannot be loaded.
        ArchiveError: The zip is hostile or unreadable.
        DatasetError: Fewer than two classes with a readable image are left.
        PromptError: Class names that are too long, or the same for two classes.
        StopTuning: `control` asked to stop.
        NonFiniteLossError: Tuning diverged, even in fp32.
        OutOfMemoryError: A step or an image does not fit.
    """
    settings = _settings(config, parent)
    log = Logbook(control or GoOn(), Meter(progress))
    log.control.check()
    # Without a cache of the caller's, one for this call: replanning after a bad image must encode nothing again.
    cache = cache if cache is not None else MemoryFeatureCache()
    own_way = parent.backbone.resize if parent is not None else None
    with opened_dataset(source) as dataset:  # before the backbone is loaded: a path with a slip in it is told at once
        parents = None if parent is None else parent.backbone
        towers, notes = backbone_to_tune(backbone, settings.backbone, settings.precision, parents)
        log.warnings.extend(notes)
        task = Task(dataset, settings, towers.with_resize(settings.resize or own_way), parent, old, memory_bytes)
        try:
            return _tune(task, cache, log, checkpoints)
        finally:
            task.close()


def _settings(config: TuneConfig | Mapping[str, Any] | None, parent: Classifier | None) -> TuneConfig:
    if isinstance(config, TuneConfig):
        settings = config
        if parent is not None and settings.parent is not None:
            check_fit(settings.method, settings.method_config, parent.manifest)
    else:
        given = dict(config or {})
        settings = TuneConfig.from_dict(continued(given, parent.manifest) if parent is not None else given)
    if (settings.parent is None) != (parent is None):
        what = f"continues from model {settings.parent!r}, which was not given" if parent is None else "names no parent"
        raise ConfigError(f"The config {what}; give both, or neither.")
    return settings


def _tune(task: Task, cache: FeatureCache, log: Logbook, checkpoints: CheckpointStore | None) -> TuneResult:
    _start(task, log)
    plan, images = encode_needed(task, cache, log)
    log.warnings.extend(task.own.warnings)
    log.warnings.extend(plan.notes)
    unseen = unseen_words_warning(task.classes, task.backbone)
    if unseen is not None:
        log.warnings.append(unseen)
    stages = Stages(task, images, Checkpointer(checkpoints, task.key()), log)
    selection = choose(stages, plan)
    measured, outcome = _measure_tuned(stages, plan)
    if plan.refit or outcome is None:
        outcome = stages.tune(plan.ship, SHIPPED, "all images")
    return _finish(stages, plan, measured, outcome, selection)


def _start(task: Task, log: Logbook) -> None:
    """Refuse names and settings before any image is encoded, and time a step."""
    config, backbone = task.config, task.backbone
    if config.precision not in ("auto", backbone.precision):
        log.warnings.append(
            f"Precision {config.precision} was asked for; the backbone was loaded in {backbone.precision}."
        )
    first = task.new_method()
    if config.logit_adjustment and not first.takes_steps:
        log.warnings.append(f"logit_adjustment has no effect: method {config.method!r} is not tuned in steps.")
    idle = [name for name in ("epochs", "batch_size", "lr") if getattr(config, name) is not None]
    if idle and not first.takes_steps:
        have = "has" if len(idle) == 1 else "have"
        log.warnings.append(f"{', '.join(idle)} {have} no effect: method {config.method!r} is not tuned in steps.")
    _ = task.zero_shot_text  # measured against later; a name that is too long for its sentences is refused now
    task.fit_memory(first)
    _time_a_step(first, log.meter)


def _time_a_step(method: Method, meter: Meter) -> None:
    """Time the text side once, so that there is a time left to show while images are encoded."""
    if not method.takes_steps or not method.has_text_features or method.text_depends_on_image:
        return
    try:
        for _ in range(2):  # the first call pays for what later ones do not
            started = meter.clock()
            text = method.encode_text()
            if text.requires_grad:
                text.sum().backward()  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        release_cached_memory()  # the trainer knows what to do about it
        return
    meter.guess("tuning", meter.clock() - started)


def _measure_tuned(stages: Stages, plan: EvaluationPlan) -> tuple[dict[int, Tensor], Outcome | None]:
    """Tune on every fold and return logits by sample, and the outcome that can be shipped as it is."""
    task, meter, checkpointer = stages.task, stages.log.meter, stages.checkpointer
    logits: dict[int, Tensor] = {}
    outcome: Outcome | None = None
    for number, fold in enumerate(plan.folds):
        stage = SHIPPED if not plan.refit else f"fold-{number}"
        title = "held-out" if len(plan.folds) == 1 else f"fold {number + 1} of {len(plan.folds)}"
        known = checkpointer.finished.get(stage)
        if known is not None and plan.refit:
            logits.update(zip(fold.test, torch.tensor(known["logits"]), strict=True))
            meter.skip("tuning", task.steps(len(fold.train)))
            continue
        outcome = stages.tune(fold.train, stage, title)
        meter.enter("evaluating", title)
        scores = stages.logits(outcome.method, fold.test)
        scores = mixed(scores, stages.zero_shot_logits(fold.test), task.tuned_share)
        logits.update(zip(fold.test, scores, strict=True))
        if plan.refit:
            checkpointer.finish(stage, {"logits": scores.tolist()})
    return logits, outcome


def _finish(
    stages: Stages,
    plan: EvaluationPlan,
    measured: Mapping[int, Tensor],
    outcome: Outcome,
    selection: dict[str, Any] | None,
) -> TuneResult:
    """Write the report and make the classifier."""
    task, log = stages.task, stages.log
    log.meter.enter("evaluating")
    report = build_report(stages, plan, measured, outcome, selection)
    log.meter.enter("saving")
    outcome.method.__dict__["backbone"] = task.backbone  # a retry in fp32 was for the tuning alone
    memory = remembered(stages, plan) if reads_memory(task.method_class) else None
    classifier = Classifier(outcome.method, build_manifest(task, plan, report), memory=memory)
    log.meter.restart()
    report.seconds = {phase: round(seconds, 3) for phase, seconds in log.meter.phase_seconds.items()}
    classifier.report = report.to_dict()
    return TuneResult(classifier, report, log.warnings, log.counters)


__all__ = ["TuneResult", "tune"]
