"""One run: draw, tune with the project's own trainer, measure."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.evidence.data import Encoder, LabelledSet, Pixels, open_set
from benchmarks.evidence.protocols import PROTOCOLS, Draw, Target
from benchmarks.evidence.runs import AUTO, DRAW_SEED, METHODS, Run
from npt_core.clip import Backbone, ClassPrompt
from npt_core.collapse import CollapseSetup, get_regularizer
from npt_core.methods import ImageBatch, ImageInput, Method, get_method
from npt_core.mixture import mixed
from npt_core.tuning.config import Schedule, TuneConfig, resolve_views
from npt_core.tuning.protocols import folds_of
from npt_core.tuning.select import TrialImages, as_recipe, select
from npt_core.tuning.traindata import TrainData
from npt_core.tuning.trainer import Trainer

MEASURED_AT_ONCE = 128


class Laboratory:
    """Does runs; keeps sets and features between them.

    Args:
        backbone: The frozen towers.
        folder: For drawn pictures and features.
        paper_root: Where the paper's data sets lie, where they are wanted.
    """

    def __init__(self, backbone: Backbone, folder: Path, paper_root: Path | None = None) -> None:
        self.backbone, self.folder, self.paper_root = backbone, folder, paper_root
        self.encoder = Encoder(backbone, folder)
        self._sets: dict[str, LabelledSet] = {}

    def open(self, name: str) -> LabelledSet:
        """Return a set, opened once."""
        if name not in self._sets:
            self._sets[name] = open_set(name, self.folder, self.paper_root)
        return self._sets[name]

    def do(self, run: Run) -> list[dict[str, Any]]:
        """Tune and measure; one line for each target."""
        started = time.perf_counter()
        data = self.open(run.dataset)
        draw = Draw(run.shots, run.tau, run.seed + DRAW_SEED)
        task = PROTOCOLS[run.protocol](data, draw, self.open)
        config = config_of(run)
        chosen: dict[str, Any] = {}
        if config.method == AUTO:
            config, chosen = self._choose(config, task.train)
        method, trainer, steps = self._tune(config, task.train)
        tuned_in = time.perf_counter() - started
        after = trainer.measure()
        lines = []
        for target in task.targets:
            zero = self._new("zero_shot", {"templates": data.templates}, target.classes, 0)
            own = target.classes == task.train.classes
            asked = method if own else method.with_classes([ClassPrompt(name) for name in target.classes])
            plain = self.logits(zero, target)
            tuned = mixed(self.logits(asked, target), plain, config.tuned_share)
            lines.append(
                {
                    **asdict(run),
                    "target": target.name,
                    "accuracy": accuracy(tuned, target.labels),
                    "zero_shot": accuracy(plain, target.labels),
                    "nll": float(torch.nn.functional.cross_entropy(tuned, target.labels)),
                    "few": few_accuracy(tuned, target.labels, task.train.labels) if own else "",
                    "equiangularity": number(after["equiangularity_mean"]),
                    "duality": number(after["duality"]),
                    "bias_spread": number(after["bias_spread"]),
                    "images": len(task.train.labels),
                    "steps": steps,
                    "seconds": round(tuned_in, 2),
                    "chosen": chosen.get("recipe", ""),
                    "share": config.tuned_share,
                }
            )
        return lines

    def _tune(self, config: TuneConfig, train: Target) -> tuple[Method, Trainer, int]:
        method = self._new(config.method, config.method_config, train.classes, config.seed)
        kind = get_regularizer(str(config.regularizer))
        setup = CollapseSetup(
            method.zero_shot_text(), torch.bincount(train.labels, minlength=len(train.classes)), config.seed
        )
        schedule = Schedule.resolve(config, len(train.labels), len(train.classes), self.backbone)
        views = resolve_views(config, len(train.labels))
        if method.image_input is ImageInput.PIXELS:
            pixels: Any = Pixels(self.encoder, train.data, train.rows)
            data = TrainData(train.labels, views, pixels=pixels)
        else:
            data = TrainData(train.labels, views, self.encoder.features(train.data, train.rows, views))
        trainer = Trainer(
            method, data, kind(kind.Config.from_dict(config.regularizer_config), setup), schedule, seed=config.seed
        )
        steps = trainer.run().steps
        method.eval()
        return method, trainer, steps

    def _new(self, name: str, settings: Mapping[str, Any], classes: tuple[str, ...], seed: int) -> Method:
        cls = get_method(name)
        if cls.image_input is ImageInput.TOKENS:
            raise SystemExit(f"{name} works on token features; these protocols have pooled features and pixels.")
        return cls(
            cls.Config.from_dict(settings),
            self.backbone,
            [ClassPrompt(one) for one in classes],
            generator=torch.Generator().manual_seed(seed),
        )

    @torch.no_grad()
    def logits(self, method: Method, target: Target) -> Tensor:
        """Return (n, K) logits on plain views."""
        text = method.encode_text() if method.has_text_features and not method.text_depends_on_image else None
        parts = []
        for rows in target.rows.split(MEASURED_AT_ONCE):
            pixels = None
            if method.image_input is ImageInput.PIXELS:
                pixels = torch.stack([self.encoder.pixel(target.data, row, 0) for row in rows.tolist()])
            features = self.encoder.features(target.data, rows)[:, 0]
            parts.append(method(ImageBatch(features=features, pixels=pixels), text).logits.float())
        return torch.cat(parts)

    def _choose(self, config: TuneConfig, train: Target) -> tuple[TuneConfig, dict[str, Any]]:
        """Let auto choose, exactly as a tuning does: by folds of the training images."""
        folds = folds_of(train.labels.tolist(), config.sampling_seed)
        if not folds:
            return as_recipe(config, "coop"), {"recipe": "coop (too few images)"}
        zero = self.logits(self._new("zero_shot", {}, train.classes, 0), train)

        def only(indices: tuple[int, ...]) -> Target:
            rows = torch.tensor(indices)
            return replace(train, rows=train.rows[rows], labels=train.labels[rows])

        def attempt(recipe: TuneConfig, name: str, fold: int) -> tuple[Tensor, float]:
            started = time.perf_counter()
            method, _, _ = self._tune(recipe, only(folds[fold].train))
            return self.logits(method, only(folds[fold].test)), time.perf_counter() - started

        asked = [i for fold in folds for i in fold.test]
        found = select(config, TrialImages(folds, train.labels[asked], zero[asked]), attempt)
        return found.config, found.chosen.to_dict()


def config_of(run: Run) -> TuneConfig:
    """Return the tune config of a run."""
    settings = {"method": run.method, **METHODS.get(run.method, {})}
    return TuneConfig.from_dict(
        {
            **settings,
            "regularizer": run.regularizer,
            "regularizer_config": run.settings,
            "seed": run.seed,
            **({"epochs": run.epochs} if run.epochs else {}),
            **({"lr": run.lr} if run.lr else {}),
        }
    )


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Mean over classes of each class's accuracy: every class counts the same."""
    return float(by_class(logits, labels)[torch.bincount(labels, minlength=logits.shape[1]) > 0].mean())


def by_class(logits: Tensor, labels: Tensor) -> Tensor:
    """Return (K,) accuracy of each class, 0 where it has no picture."""
    right = (logits.argmax(dim=1) == labels).double()
    counts = torch.bincount(labels, minlength=logits.shape[1]).clamp_min(1)
    return torch.zeros(logits.shape[1], dtype=torch.float64).index_add_(0, labels, right) / counts


def few_accuracy(logits: Tensor, labels: Tensor, trained: Tensor) -> float:
    """Mean accuracy over the third of the classes with the fewest training images."""
    counts = torch.bincount(trained, minlength=logits.shape[1])
    fewest = counts.argsort(stable=True)[: max(1, logits.shape[1] // 3)]
    return float(by_class(logits, labels)[fewest].mean())


def number(value: float | None) -> float | str:
    """Return a number for a CSV, empty where it is undefined."""
    return "" if value is None else value
