"""What a tuning came to: zero-shot beside tuned, geometry per epoch, and how it was measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Self

REPORT_FORMAT = 1


@dataclass
class Report:
    """Everything a user is told about a tuned classifier.

    Attributes:
        evaluation: How it was measured: `kind` (test-split, val-split, unused-images, held-out, cross-validation,
            none), `reason`, `train_count`, `test_count`, `folds`, `samples` (paths of the images measured on),
            `answers` (for each of them, in their order, numbers of classes: `label`, `tuned`, `zero_shot`; None where
            nothing was measured).
        metrics: `zero_shot` and `tuned` (None where there were not enough images) on the same images, which no measured
            prompt had seen, see `tuning.evaluate.metrics`; `paired`, see `tuning.evaluate.paired`.
        refitted: The shipped prompt was tuned once more on all images, the measured ones among them. The metrics are
            those of the prompt before that, which had not seen them.
        geometry: `zero_shot`, `initial` (the prompt before the first step), `tuned` (the shipped one), `epochs`,
            `pictures` (`initial` and `tuned`, see `collapse.picture`).
        history: Loss, accuracy and terms for each epoch of the shipped prompt's tuning.
        config: The config with everything filled in, and the `schedule`.
        dataset: `id`, `classes` with counts, `splits`.
        backbone: Name, fingerprint, precision.
        warnings: For people.
        counters: `images_encoded`, `images_cached`, `steps`.
        seconds: Wall time by phase.
        selection: What cross-validation on the training images chose: `chooses` says which setting (method for
            `method: auto`, tuned_share for `tuned_share: auto`), `table` from what, `chosen` which row, `images` and
            `folds` where; None where nothing was left to choose.
        examples: Small pictures that the tuned classifier got wrong, and of which tuning changed the answer, see
            `tuning.examples`; None where it was not measured.
        reproduce: What gives the same classifier once more: `dataset_id`, `old_dataset_ids` (behind a parent), `config`
            with everything that was left to choose filled in, `seeds`, `versions`, `device`. `report.reproduce` makes
            commands of it.
        calibration: How sure the tuned answers are on the measured images, or None where they were too few: the stored
            `temperature`, on how many images (`count`) of what evaluation kind (`source`) it was fitted; `before`
            (T = 1), `after` (each image with a temperature fitted without it) and `zero_shot`, each `ece`, `nll` and
            `bins`; `thresholds`, what each would answer and reject; `recommended`, one of them or the reason why none.
            The metrics above are those before the temperature.
        parent: For a tuning that went on from a model: what became of its classes, see `tuning.parentage`; else None.
    """

    evaluation: dict[str, Any]
    metrics: dict[str, Any]
    refitted: bool
    geometry: dict[str, Any]
    history: list[dict[str, Any]]
    config: dict[str, Any]
    dataset: dict[str, Any]
    backbone: dict[str, Any]
    warnings: list[str] = field(default_factory=list)
    counters: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    selection: dict[str, Any] | None = None
    examples: dict[str, Any] | None = None
    reproduce: dict[str, Any] | None = None
    calibration: dict[str, Any] | None = None
    parent: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {"format": REPORT_FORMAT, **{item.name: getattr(self, item.name) for item in fields(self)}}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Read what `to_dict` wrote; keys of later formats are ignored."""
        return cls(**{item.name: data[item.name] for item in fields(cls) if item.name in data})

    def summary(self) -> dict[str, Any]:
        """Return the few numbers a list of models shows."""

        def accuracy(part: Mapping[str, Any] | None) -> dict[str, Any] | None:
            if part is None:
                return None
            return {name: part[name] for name in ("accuracy", "accuracy_interval", "count", "calibration_error", "nll")}

        return {
            "evaluation": self.evaluation["kind"],
            "zero_shot": accuracy(self.metrics["zero_shot"]),
            "tuned": accuracy(self.metrics["tuned"]),
            "refitted": self.refitted,
        }
