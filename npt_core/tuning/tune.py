"""From a data set and a config to a classifier and a report: the whole of a tuning, with no service around it."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib import metadata
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from npt_core.classifier import MANIFEST_FORMAT, Classifier, describe_class
from npt_core.collapse import CollapseSetup, Regularizer, get_regularizer
from npt_core.collapse.geometry import class_means, geometry, within_class
from npt_core.errors import ConfigError, Fault, IncompatibleError
from npt_core.methods import ImageBatch, ImageInput, Method, get_method
from npt_core.mixture import mixed
from npt_core.report import Report
from npt_core.tuning.checkpoint import Checkpointer
from npt_core.tuning.config import Schedule, TuneConfig, resolve_views
from npt_core.tuning.control import CheckpointStore, Control, GoOn, ProgressSink
from npt_core.tuning.evaluate import metrics, paired
from npt_core.tuning.features import FeatureCache, FeatureSet, MemoryFeatureCache, PixelSource, encode_dataset
from npt_core.tuning.memory import is_out_of_memory, release_cached_memory
from npt_core.tuning.meter import Meter
from npt_core.tuning.protocols import EvaluationPlan, Fold, cross_validation, plan_evaluation
from npt_core.tuning.recipes import AUTO
from npt_core.tuning.select import as_recipe, select
from npt_core.tuning.trainer import TrainData, Trainer, TrainResult

if TYPE_CHECKING:
    from npt_core.clip.backbone import Backbone
    from npt_core.clip.tokens import ClassPrompt
    from npt_core.data.dataset import Dataset

PREDICT_CHUNK = 256
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
    source: Dataset,
    config: TuneConfig | Mapping[str, Any] | None = None,
    *,
    backbone: Backbone,
    cache: FeatureCache | None = None,
    control: Control | None = None,
    progress: ProgressSink | None = None,
    checkpoints: CheckpointStore | None = None,
    parent: Classifier | None = None,
) -> TuneResult:
    """Tune a classifier on a handful of labelled images.

    Args:
        source: The labelled images.
        config: Settings; all optional.
        backbone: The frozen towers. `config.backbone` and `config.precision` are for whoever loads them.
        cache: Image features of earlier tunings; by default none is kept.
        control: Checked at every step and inside encode loops.
        progress: Told where the work stands, about ten times a second at most.
        checkpoints: Where a blob is kept to resume from; a blob of another tuning is ignored.
        parent: The classifier `config.parent` names; its learned parameters are the start.

    Returns:
        The classifier, the report, warnings and counters.

    Raises:
        ConfigError: A setting cannot be used; for pairs that make no sense, IncompatibleError.
        DatasetError: Fewer than two classes with a readable image are left.
        PromptError: Class names that are too long, or the same for two classes.
        StopTuning: `control` asked to stop.
        NonFiniteLossError: Tuning diverged, even in fp32.
        OutOfMemoryError: A step or an image does not fit.
    """
    settings = config if isinstance(config, TuneConfig) else TuneConfig.from_dict(config or {})
    return _Tuning(source, settings, backbone, cache, control, progress, checkpoints, parent).run()


@dataclass
class _Outcome:
    """A tuned method and how its tuning went."""

    method: Method
    result: TrainResult
    before: dict[str, float | None]
    after: dict[str, float | None]


@dataclass
class _Views:
    """Features of every needed sample by its position in the data set."""

    row: dict[int, int] = field(default_factory=dict)
    features: Tensor = field(default_factory=lambda: torch.zeros(0))
    tokens: Tensor | None = None
    plain_row: dict[int, int] = field(default_factory=dict)
    plain: Tensor = field(default_factory=lambda: torch.zeros(0))
    plain_tokens: Tensor | None = None


class _Tuning:
    """One call of `tune`; each method is one stage of it."""

    def __init__(
        self,
        dataset: Dataset,
        config: TuneConfig,
        backbone: Backbone,
        cache: FeatureCache | None,
        control: Control | None,
        progress: ProgressSink | None,
        checkpoints: CheckpointStore | None,
        parent: Classifier | None,
    ) -> None:
        self.dataset, self.backbone, self.parent = dataset, backbone, parent
        self.source_id = dataset.id  # what was handed in, whichever pictures of it turn out unreadable
        # Without a cache of the caller's, one for this call: replanning after a bad image must encode nothing again.
        self.cache = cache if cache is not None else MemoryFeatureCache()
        self.control = control or GoOn()
        self.meter = Meter(progress)
        self.store = checkpoints
        self.requested = config
        self.selection: dict[str, Any] | None = None
        # Until auto has chosen, CoOp stands in its place: it refuses names early.
        self._use(as_recipe(config, "coop") if config.method == AUTO else config)
        self.warnings: list[str] = []
        self.counters = {"images_encoded": 0, "images_cached": 0, "steps": 0}
        self.bad: list[Fault] = []
        if config.parent is not None and parent is None:
            raise ConfigError(f"The config continues from model {config.parent!r}, which was not given.")

    # --- the whole ----------------------------------------------------------------------------------------------------

    def run(self) -> TuneResult:
        self.control.check()
        self.classes = self._name_classes()
        self._warn_about_precision()
        first = self._new_method()  # which refuses names and settings before any image is encoded
        if self.config.logit_adjustment and not first.takes_steps:
            self.warnings.append(
                f"logit_adjustment has no effect: method {self.config.method!r} is not tuned in steps."
            )
        self._time_a_step(first)
        views = self._encode()
        self._warn_about_words()
        self.checkpointer = Checkpointer(self.store, self._key())
        if self.requested.method == AUTO:
            self._choose(views)
        plan = self.plan
        tuned_logits, outcome = self._measure_tuned(plan, views)
        if plan.refit or outcome is None:
            outcome = self._tune_on(plan.ship, views, SHIPPED, "all images")
        self.meter.enter("evaluating")
        report = self._report(plan, views, tuned_logits, outcome)
        self.meter.enter("saving")
        classifier = self._classifier(outcome, report)
        self.meter.restart()
        report.seconds = {phase: round(seconds, 3) for phase, seconds in self.meter.phase_seconds.items()}
        classifier.report = report.to_dict()
        return TuneResult(classifier, report, self.warnings, self.counters)

    # --- classes ------------------------------------------------------------------------------------------------------

    def _name_classes(self) -> list[ClassPrompt]:
        from npt_core.clip.tokens import ClassPrompt

        given = dict(self.config.class_names)
        unknown = sorted(set(given) - set(self.dataset.labels))
        if unknown:
            raise ConfigError(
                f"class_names speaks of {', '.join(map(repr, unknown[:5]))}, which the data set does not have; its "
                f"classes are {', '.join(map(repr, self.dataset.labels[:20]))}.",
                [Fault(f"class_names.{label}", "no such class in the data set") for label in unknown],
            )
        classes = []
        for label in self.dataset.labels:
            info = self.dataset.prompts[label]
            if label in given:
                classes.append(ClassPrompt(label, given[label].strip()))
            else:
                classes.append(ClassPrompt(label, info.name, tuple(info.phrasings)))
        return classes

    def _warn_about_words(self) -> None:
        unseen = {
            word: one.label
            for one in self.classes
            for phrasing in one.phrasings
            for word in self.backbone.unseen_words(phrasing)
        }
        if unseen:
            listed = ", ".join(f"{word!r} (class {label!r})" for word, label in list(unseen.items())[:10])
            more = f" and {len(unseen) - 10} more" if len(unseen) > 10 else ""
            self.warnings.append(
                f"Backbone {self.backbone.name!r} never saw these words in its training: {listed}{more}. Their text "
                "features start from noise; give names it knows with class_names, or use another backbone."
            )

    # --- images -------------------------------------------------------------------------------------------------------

    def _encode(self) -> _Views:
        """Encode what the plan needs; unreadable images are left out and the plan is made again without them."""
        while True:
            self.plan = plan_evaluation(self.dataset, self.config)
            self.views = resolve_views(self.config, len(self.plan.trained_on))
            views, bad = self._encode_plan(self.plan)
            if not bad:
                self.counters["images_cached"] = max(0, self._distinct_views - self.counters["images_encoded"])
                break
            self.bad.extend(bad)
            self.dataset = self.dataset.without(bad)
            left = set(self.dataset.labels)
            self.classes = [one for one in self.classes if one.label in left]
        self.warnings.extend(self.dataset.warnings)
        self.warnings.extend(self.plan.notes)
        return views

    def _encode_plan(self, plan: EvaluationPlan) -> tuple[_Views, list[Fault]]:
        trained = plan.trained_on
        plain = sorted(set(plan.needed) - set(trained))
        distinct = [len({self.dataset.samples[i].sha256 for i in part}) for part in (trained, plain)]
        self._distinct_views = distinct[0] * self._trained_views + distinct[1]
        self.meter.expect("tuning", self._schedule_steps(plan))
        self.meter.expect("encoding", self.meter.done("encoding") + self._distinct_views)
        self.meter.enter("encoding")
        first = self._encode_part(trained, self._trained_views)
        second = self._encode_part(plain, 1)
        bad = [*first.bad, *second.bad]
        if bad:
            return _Views(), bad
        row = {index: number for number, index in enumerate(first.indices)}
        plain_row = {index: number for number, index in enumerate([*first.indices, *second.indices])}
        features = [part.features[:, 0] for part in (first, second) if len(part.indices)]
        tokens = [part.tokens[:, 0] for part in (first, second) if part.tokens is not None and len(part.indices)]
        return (
            _Views(
                row, first.features, first.tokens, plain_row, torch.cat(features), torch.cat(tokens) if tokens else None
            ),
            [],
        )

    @property
    def _trained_views(self) -> int:
        """Views of training images to encode: for methods on pixels only the plain one, for the baseline."""
        return 1 if self.method_class.image_input is ImageInput.PIXELS else self.views

    def _encode_part(self, indices: Sequence[int], views: int) -> FeatureSet:
        def told(encoded: int, cached: int) -> None:
            self.counters["images_encoded"] += encoded
            if cached:
                self.meter.skip("encoding", cached)
            if encoded:
                self.meter.advance("encoding", encoded)
            self.meter.report()

        return encode_dataset(
            self.backbone,
            self.dataset,
            indices,
            views=views,
            cache=self.cache,
            control=self.control,
            progress=told,
            with_tokens=self.method_class.image_input is ImageInput.TOKENS,
        )

    def _schedule(self, num_images: int) -> Schedule:
        return Schedule.resolve(self.config, num_images, len(self.dataset.labels), self.backbone)

    def _schedule_steps(self, plan: EvaluationPlan) -> int:
        sizes = [len(fold.train) for fold in plan.folds]
        if plan.refit or not plan.folds:
            sizes.append(len(plan.ship))
        return sum(map(self._steps, sizes))

    def _steps(self, num_images: int) -> int:
        """Return the steps of one tuning on so many images."""
        return self._schedule(num_images).steps(num_images) if self._new_method().takes_steps else 0

    def _warn_about_precision(self) -> None:
        asked = self.config.precision
        if asked not in ("auto", self.backbone.precision):
            self.warnings.append(
                f"Precision {asked} was asked for; the backbone was loaded in {self.backbone.precision}."
            )

    def _time_a_step(self, method: Method) -> None:
        """Time the text side once, so that there is a time left to show while images are encoded."""
        if not method.takes_steps or not method.has_text_features or method.text_depends_on_image:
            return
        try:
            for _ in range(2):  # the first call pays for what later ones do not
                started = self.meter.clock()
                text = method.encode_text()
                if text.requires_grad:
                    text.sum().backward()  # type: ignore[no-untyped-call]
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            release_cached_memory()  # the trainer knows what to do about it
            return
        self.meter.guess("tuning", self.meter.clock() - started)

    # --- auto ---------------------------------------------------------------------------------------------------------

    def _use(self, config: TuneConfig) -> None:
        """Go on with another config than the requested one."""
        self.config, self.method_class = config, get_method(config.method)

    def _choose(self, views: _Views) -> None:
        """Let auto choose by the training images of the one measured fold, and go on with what it chose."""
        plan = self.plan
        folds: tuple[Fold, ...] = ()
        if len(plan.folds) == 1:
            folds = cross_validation(self.dataset, plan.folds[0].train, self.config.sampling_seed)
        if not folds:
            self.warnings.append("There are too few images to choose a method by: coop was used.")
            return
        indices = list(plan.folds[0].train)
        labels = dict(zip(indices, self._labels(indices).tolist(), strict=True))
        zero_shot = dict(zip(indices, self._zero_shot_logits(indices, views), strict=True))

        def attempt(config: TuneConfig, name: str, number: int) -> tuple[Tensor, float]:
            if number == 0:
                self._use(config)
                ahead = sum(self._steps(len(fold.train)) for fold in folds)
                self.meter.expect("tuning", self.meter.done("tuning") + ahead)
            return self._try(name, number, folds[number], views)

        found = select(self.requested, folds, labels, zero_shot, attempt)
        self._use(found.config)
        self.selection = found.table
        self.warnings.extend(found.warnings)
        self.meter.expect("tuning", self.meter.done("tuning") + self._schedule_steps(plan))

    def _try(self, name: str, number: int, fold: Fold, views: _Views) -> tuple[Tensor, float]:
        """Return (n, K) logits of a recipe on one inner fold, and the seconds it took, also where it is known."""
        stage = f"auto-{name}-{number}"
        known = self.checkpointer.finished.get(stage)
        if known is not None:
            return torch.tensor(known["logits"]), float(known["seconds"])
        started = self.meter.clock()
        outcome = self._tune_on(fold.train, views, stage, f"{name}, fold {number + 1}")
        scores = self._logits(outcome.method, fold.test, views)
        seconds = self.meter.clock() - started
        self.checkpointer.finish(stage, {"logits": scores.tolist(), "seconds": seconds})
        return scores, seconds

    # --- tuning -------------------------------------------------------------------------------------------------------

    def _new_method(self) -> Method:
        generator = torch.Generator().manual_seed(self.config.seed)
        config = self.method_class.Config.from_dict(self.config.method_config)
        method = self.method_class(config, self.backbone, self.classes, generator=generator).to(self.backbone.device)
        if self.parent is not None:
            self._start_from_parent(method, self.parent)
        return method

    def _start_from_parent(self, method: Method, parent: Classifier) -> None:
        self.backbone.require_fingerprint(parent.backbone.fingerprint, what="The parent model")
        theirs = parent.method.state_dict()
        if parent.method.name == method.name:
            method.make_room({name: value.shape for name, value in theirs.items()})
        ours = method.state_dict()
        same = parent.method.name == method.name and theirs.keys() == ours.keys()
        if not same or any(theirs[name].shape != ours[name].shape for name in ours):
            raise IncompatibleError(
                f"The parent was tuned with method {parent.method.name!r} and its parameters do not fit method "
                f"{method.name!r} as configured; use the parent's method and method_config."
            )
        method.load_state_dict(theirs)

    def _regularizer(self, labels: Tensor) -> Regularizer:
        cls = get_regularizer(str(self.config.regularizer))
        setup = CollapseSetup(
            frozen_text_features=self.zero_shot_text,
            num_images=torch.bincount(labels, minlength=len(self.classes)).to(self.backbone.device),
            seed=self.config.seed,
        )
        return cls(cls.Config.from_dict(self.config.regularizer_config), setup)

    @property
    def zero_shot_text(self) -> Tensor:
        if not hasattr(self, "_zero_shot_text"):
            self._zero_shot_text = self._new_method().zero_shot_text()
        return self._zero_shot_text

    def _labels(self, indices: Sequence[int]) -> Tensor:
        number = {one.label: position for position, one in enumerate(self.classes)}
        return torch.tensor([number[self.dataset.samples[i].label] for i in indices], dtype=torch.int64)

    def _tune_on(self, indices: Sequence[int], views: _Views, stage: str, title: str) -> _Outcome:
        """Tune a fresh method on `indices`."""
        self.meter.enter("tuning", title)
        labels = self._labels(indices)
        rows = [views.row[i] for i in indices]
        pixels = None
        if self.method_class.image_input is ImageInput.PIXELS:
            pixels = PixelSource(self.backbone, self.dataset, indices)
            data = TrainData(labels, self.views, pixels=pixels)
        else:
            tokens = None if views.tokens is None else views.tokens[rows]
            data = TrainData(labels, self.views, views.features[rows], tokens)
        method = self._new_method()
        trainer = Trainer(
            method,
            data,
            self._regularizer(labels),
            self._schedule(len(indices)),
            seed=self.config.seed,
            control=self.control,
            meter=self.meter,
            checkpointer=self.checkpointer,
            stage=stage,
        )
        try:
            result = trainer.run()
        finally:
            if pixels is not None:
                pixels.close()
        self.counters["steps"] += result.steps
        after = trainer.measure()
        before = result.geometry[0] if result.geometry else {"epoch": 0, **after}
        if result.fp32_retries:
            self.warnings.append("The loss was not finite once; the tuning went on in fp32 from the last good step.")
        if result.chunk_halvings:
            self.warnings.append(
                "Memory was short; the class names were encoded in smaller chunks, which takes longer."
            )
        return _Outcome(method, result, {k: v for k, v in before.items() if k != "epoch"}, after)

    @torch.no_grad()
    def _logits(self, method: Method, indices: Sequence[int], views: _Views) -> Tensor:
        """Return (n, K) logits of images in their plain view."""
        text = None
        if method.has_text_features and not method.text_depends_on_image:
            text = method.encode_text()
        chunk = PREDICT_CHUNK if text is not None or not method.text_depends_on_image else 16
        pixels = None
        if method.image_input is ImageInput.PIXELS:
            pixels = PixelSource(self.backbone, self.dataset, indices, max_bytes=0)
            chunk = 32
        parts = []
        device = self.backbone.device
        for start in range(0, len(indices), chunk):
            self.control.check()
            part = indices[start : start + chunk]
            rows = [views.plain_row[i] for i in part]
            batch = ImageBatch(
                features=views.plain[rows].to(device),
                tokens=None if views.plain_tokens is None else views.plain_tokens[rows].to(device),
                pixels=None if pixels is None else pixels.batch(range(start, start + len(part)), [0] * len(part)),
            )
            parts.append(method(batch, text).logits.float().cpu())
        if pixels is not None:
            pixels.close()
        return torch.cat(parts)

    def _measure_tuned(self, plan: EvaluationPlan, views: _Views) -> tuple[dict[int, Tensor], _Outcome | None]:
        """Tune on every fold and return logits by sample, and the outcome that can be shipped as it is."""
        logits: dict[int, Tensor] = {}
        outcome: _Outcome | None = None
        for number, fold in enumerate(plan.folds):
            stage = SHIPPED if not plan.refit else f"fold-{number}"
            title = "held-out" if len(plan.folds) == 1 else f"fold {number + 1} of {len(plan.folds)}"
            known = self.checkpointer.finished.get(stage)
            if known is not None and plan.refit:
                logits.update(zip(fold.test, torch.tensor(known["logits"]), strict=True))
                self.meter.skip("tuning", self._schedule(len(fold.train)).steps(len(fold.train)))
                continue
            outcome = self._tune_on(fold.train, views, stage, title)
            self.meter.enter("evaluating", title)
            scores = self._logits(outcome.method, fold.test, views)
            scores = mixed(scores, self._zero_shot_logits(fold.test, views).cpu(), self.config.tuned_share)
            logits.update(zip(fold.test, scores, strict=True))
            if plan.refit:
                self.checkpointer.finish(stage, {"logits": scores.tolist()})
        return logits, outcome

    # --- results ------------------------------------------------------------------------------------------------------

    def _zero_shot_logits(self, indices: Sequence[int], views: _Views) -> Tensor:
        features = views.plain[[views.plain_row[i] for i in indices]]
        return self.backbone.logit_scale * features @ self.zero_shot_text.cpu().t()

    def _report(self, plan: EvaluationPlan, views: _Views, tuned: Mapping[int, Tensor], outcome: _Outcome) -> Report:
        on = list(plan.zero_shot_on)
        labels, names = self._labels(on), [one.label for one in self.classes]
        baseline = self._zero_shot_logits(on, views)
        zero_shot = metrics(baseline, labels, names)
        measured = both = None
        if tuned:
            scores = torch.stack([tuned[i] for i in on])
            measured, both = metrics(scores, labels, names), paired(baseline, scores, labels)
            self._warn_if_worse(zero_shot, measured, both)
        else:
            self.warnings.append(f"The tuned prompt was not measured: {plan.reason}.")
        schedule = self._schedule(len(plan.ship))
        return Report(
            evaluation={
                "kind": plan.kind,
                "reason": plan.reason,
                "train_count": len(plan.folds[0].train) if plan.folds else len(plan.ship),
                "ship_count": len(plan.ship),
                "test_count": len(on) if tuned else 0,
                "folds": len(plan.folds),
                "samples": [self.dataset.samples[i].path for i in on] if tuned else [],
            },
            metrics={"zero_shot": zero_shot, "tuned": measured, "paired": both},
            refitted=plan.refit,
            geometry={
                "zero_shot": self._zero_shot_geometry(plan.ship, views),
                "initial": outcome.before,
                "tuned": outcome.after,
                "epochs": outcome.result.geometry,
            },
            history=outcome.result.history,
            config={**self.config.to_dict(), "schedule": {**schedule.to_dict(), "views": self.views}},
            dataset=self._describe_dataset(plan),
            backbone={name: getattr(self.backbone, name) for name in ("name", "fingerprint", "precision")},
            warnings=self.warnings,
            counters=self.counters,
            selection=self.selection,
        )

    def _warn_if_worse(self, zero_shot: Mapping[str, Any], tuned: Mapping[str, Any], both: Mapping[str, Any]) -> None:
        if tuned["accuracy"] >= zero_shot["accuracy"]:
            return
        self.warnings.append(
            f"Tuned accuracy {tuned['accuracy']:.3f} is below zero-shot {zero_shot['accuracy']:.3f} on the same "
            f"{tuned['count']} images (p = {both['p_value']:.2g}): predict with model=zero-shot, or tune with more "
            "images, fewer epochs or a lower learning rate."
        )

    def _zero_shot_geometry(self, indices: Sequence[int], views: _Views) -> dict[str, float | None]:
        labels = self._labels(indices)
        features = views.features[[views.row[i] for i in indices]]
        return geometry(
            self.zero_shot_text.cpu(),
            class_means(features, labels, len(self.classes)),
            scale=self.backbone.logit_scale,
            within=within_class(features[:, 0], labels, len(self.classes)),
        )

    def _describe_dataset(self, plan: EvaluationPlan) -> dict[str, Any]:
        shipped = self._labels(plan.ship)
        counts = torch.bincount(shipped, minlength=len(self.classes)).tolist()
        return {
            "id": self.source_id,
            "classes": [{**describe_class(one), "count": n} for one, n in zip(self.classes, counts, strict=True)],
            "splits": {split: len(samples) for split, samples in self.dataset.splits.items()},
            "left_out": [{"path": fault.path, "message": fault.message} for fault in self.bad],
        }

    def _classifier(self, outcome: _Outcome, report: Report) -> Classifier:
        backbone = self.backbone
        samples = [
            {"path": self.dataset.samples[i].path, "sha256": self.dataset.samples[i].sha256} for i in self.plan.ship
        ]
        manifest = {
            "format": MANIFEST_FORMAT,
            "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
            "method": self.config.method,
            "method_config": dict(self.config.method_config),
            "classes": [describe_class(one) for one in self.classes],
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
            "parent": self.config.parent,
            "seeds": {"seed": self.config.seed, "sampling_seed": self.config.sampling_seed},
            "versions": versions(),
            "metrics": report.summary(),
            "evaluation": {key: value for key, value in report.evaluation.items() if key != "samples"},
            "geometry": {key: report.geometry[key] for key in ("zero_shot", "initial", "tuned")},
            "refitted": report.refitted,
            "tuned_share": self.config.tuned_share,
            "chosen_by": None if self.selection is None else AUTO,
        }
        method = outcome.method
        method.__dict__["backbone"] = backbone  # a retry in fp32 was for the tuning alone
        return Classifier(method, manifest)

    def _key(self) -> str:
        """Return the hash of everything that decides the course of this tuning."""
        facts = {
            "config": replace(self.requested, backbone=None, precision="auto").to_dict(),
            "classes": [describe_class(one) for one in self.classes],
            "samples": [[s.split, s.label, s.sha256] for s in self.dataset.samples],
            "backbone": [self.backbone.fingerprint, self.backbone.precision],
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """Return the versions that a result depends on."""
    found = {"python": platform.python_version()}
    for package in ("npt-service", "torch", "open_clip_torch", "numpy", "pillow"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


__all__ = ["Fold", "TuneResult", "tune", "versions"]
