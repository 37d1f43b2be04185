"""Which images are tuned on and which are measured on, so that no number comes from an image that was learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from npt_core.data.sampling import few_shot, stratified_folds, stratified_split

if TYPE_CHECKING:
    from npt_core.data.dataset import Dataset
    from npt_core.tuning.config import TuneConfig

Kind = Literal["test-split", "val-split", "unused-images", "held-out", "cross-validation", "none"]

MIN_TO_HOLD_OUT = 4
"""With fewer images in the smallest class, one held-out image a class says too little and costs too much."""

MAX_FOLDS = 3
MIN_UNUSED = 2
"""So many images a class must be left over by `shots` for them to be measured on."""


@dataclass(frozen=True)
class Fold:
    """Tune on `train`, measure on `test`; positions in the data set's samples."""

    train: tuple[int, ...]
    test: tuple[int, ...]


@dataclass(frozen=True)
class EvaluationPlan:
    """How a tuning is measured and what is shipped.

    Attributes:
        kind: Where the measured images come from.
        reason: One sentence for people.
        folds: One tuning for each; a single one except in cross-validation, none where nothing can be held out.
        ship: What the shipped prompt is tuned on.
        refit: The shipped prompt is tuned apart from the measured ones, on `ship`, which holds the measured images.
        zero_shot_on: What the zero-shot prompt, which learns from no image, is measured on.
        notes: For the warnings.
    """

    kind: Kind
    reason: str
    folds: tuple[Fold, ...]
    ship: tuple[int, ...]
    refit: bool
    zero_shot_on: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def needed(self) -> list[int]:
        """Every sample that must be encoded, sorted."""
        return sorted({*self.ship, *self.zero_shot_on, *(i for fold in self.folds for i in (*fold.train, *fold.test))})

    @property
    def trained_on(self) -> list[int]:
        """Every sample that is tuned on in some stage, sorted."""
        return sorted({*self.ship, *(i for fold in self.folds for i in fold.train)})


def plan_evaluation(dataset: Dataset, config: TuneConfig) -> EvaluationPlan:
    """Decide how to measure.

    A test split is measured on, else a val split; the shipped prompt then never sees it. Else images that `shots`
    leaves unused; else a stratified held-out part; with fewer than 4 images in the smallest class, cross-validation;
    and where a class has a single image, nothing is measured and the report says so. Images with the same bytes stay
    together.
    """
    samples = dataset.samples
    train = [i for i, sample in enumerate(samples) if sample.split == "train"]
    if config.shots is not None:
        chosen = few_shot([samples[i].label for i in train], config.shots, config.sampling_seed)
        shown = [train[j] for j in chosen.tolist()]
    else:
        shown = train
    for split, kind in (("test", "test-split"), ("val", "val-split")):
        test = [i for i, sample in enumerate(samples) if sample.split == split]
        if test:
            return _own_split(dataset, shown, test, split, kind)  # type: ignore[arg-type]
    unused = _unused(dataset, train, shown)
    if unused:
        reason = f"measured on the {len(unused)} images that shots={config.shots} leaves unused"
        fold = Fold(tuple(shown), tuple(unused))
        return EvaluationPlan("unused-images", reason, (fold,), tuple(shown), False, tuple(unused))
    return _from_training_images(dataset, shown, config)


def _own_split(dataset: Dataset, shown: Sequence[int], test: list[int], split: str, kind: Kind) -> EvaluationPlan:
    seen = {dataset.samples[i].sha256 for i in shown}
    fresh = [i for i in test if dataset.samples[i].sha256 not in seen]
    notes = []
    if len(fresh) < len(test):
        notes.append(
            f"{len(test) - len(fresh)} of the {len(test)} images in the {split} split are also in the training split; "
            "they are not measured on."
        )
    missing = sorted(set(dataset.labels) - {dataset.samples[i].label for i in fresh})
    if missing and fresh:
        notes.append(f"The {split} split has no image of {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}.")
    if not fresh:
        reason = f"every image of the {split} split is also in the training split: nothing is left to measure on"
        return EvaluationPlan("none", reason, (), tuple(shown), False, tuple(shown), tuple(notes))
    reason = f"measured on the data set's own {split} split; no prompt was tuned on it"
    fold = Fold(tuple(shown), tuple(fresh))
    return EvaluationPlan(kind, reason, (fold,), tuple(shown), False, tuple(fresh), tuple(notes))


def _unused(dataset: Dataset, train: Sequence[int], shown: Sequence[int]) -> list[int]:
    """Return the training images that were not drawn, when there are enough of each class."""
    seen = {dataset.samples[i].sha256 for i in shown}
    rest = [i for i in train if dataset.samples[i].sha256 not in seen]
    counts = Counter(dataset.samples[i].label for i in rest)
    return rest if min(counts.get(label, 0) for label in dataset.labels) >= MIN_UNUSED else []


def _from_training_images(dataset: Dataset, shown: Sequence[int], config: TuneConfig) -> EvaluationPlan:
    labels = [dataset.samples[i].label for i in shown]
    groups = [dataset.samples[i].sha256 for i in shown]
    distinct = Counter(label for label, _ in set(zip(labels, groups, strict=True)))
    smallest = min(distinct[label] for label in dataset.labels)
    if smallest >= MIN_TO_HOLD_OUT:
        rest, held = stratified_split(labels, config.val_fraction, config.sampling_seed, groups)
        fold = Fold(tuple(shown[j] for j in rest.tolist()), tuple(shown[j] for j in held.tolist()))
        if fold.test and _covers(dataset, fold.train):
            return _held_out(dataset, fold, tuple(shown), config)
    folds = cross_validation(dataset, shown, config.sampling_seed)
    if folds and all(fold.test and _covers(dataset, fold.train) for fold in folds):
        reason = (
            f"the smallest class has {smallest} images: measured by {len(folds)}-fold cross-validation, each image by "
            "a prompt that had not seen it; the shipped prompt was tuned on all of them"
        )
        tested = tuple(sorted(i for fold in folds for i in fold.test))
        return EvaluationPlan("cross-validation", reason, folds, tuple(shown), True, tested)
    reason = (
        f"not enough images to hold out: the smallest class has {smallest}; give every class at least 2 different "
        f"images (better {MIN_TO_HOLD_OUT} or more), or a test split"
    )
    return EvaluationPlan("none", reason, (), tuple(shown), False, tuple(shown))


def cross_validation(dataset: Dataset, indices: Sequence[int], seed: int) -> tuple[Fold, ...]:
    """Split images into stratified folds, at most `MAX_FOLDS`; none where a class has a single image.

    Images with the same bytes stay together. Every image is tested in one fold.
    """
    labels = [dataset.samples[i].label for i in indices]
    groups = [dataset.samples[i].sha256 for i in indices]
    number = min(MAX_FOLDS, *Counter(label for label, _ in set(zip(labels, groups, strict=True))).values())
    if number < 2:
        return ()
    fold_of = stratified_folds(labels, number, seed, groups).tolist()
    pairs = list(zip(indices, fold_of, strict=True))
    return tuple(
        Fold(tuple(i for i, own in pairs if own != one), tuple(i for i, own in pairs if own == one))
        for one in range(number)
    )


def _held_out(dataset: Dataset, fold: Fold, shown: tuple[int, ...], config: TuneConfig) -> EvaluationPlan:
    reason = f"measured on {len(fold.test)} held-out images, some of each class, which the measured prompt had not seen"
    if config.refit:
        reason += "; the shipped prompt was then tuned once more on all images with the same schedule"
    ship = shown if config.refit else fold.train
    return EvaluationPlan("held-out", reason, (fold,), ship, config.refit, fold.test)


def _covers(dataset: Dataset, indices: Sequence[int]) -> bool:
    return {dataset.samples[i].label for i in indices} == set(dataset.labels)
