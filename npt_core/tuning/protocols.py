"""Which images are tuned on and which are measured on, so that no number comes from an image that was learned from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Literal

from npt_core.data.sampling import Label, few_shot, stratified_folds, stratified_split

if TYPE_CHECKING:
    from npt_core.continual.old import OldParts
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
        beside: Further images that are looked at: old ones of a parent.
    """

    kind: Kind
    reason: str
    folds: tuple[Fold, ...]
    ship: tuple[int, ...]
    refit: bool
    zero_shot_on: tuple[int, ...]
    notes: tuple[str, ...] = field(default=())
    beside: tuple[int, ...] = field(default=())

    @property
    def needed(self) -> list[int]:
        """Every sample that must be encoded, sorted."""
        folds = (i for fold in self.folds for i in (*fold.train, *fold.test))
        return sorted({*self.ship, *self.zero_shot_on, *self.beside, *folds})

    @property
    def trained_on(self) -> list[int]:
        """Every sample that is tuned on in some stage, sorted."""
        return sorted({*self.ship, *(i for fold in self.folds for i in fold.train)})

    def with_old(self, parts: OldParts) -> EvaluationPlan:
        """Return the plan with old images of a parent: some tuned on in every stage, others looked at."""
        folds = tuple(replace(fold, train=(*fold.train, *parts.replay)) for fold in self.folds)
        beside = (*parts.spared, *parts.choose, *parts.measure)
        return replace(self, folds=folds, ship=(*self.ship, *parts.replay), beside=beside)


def plan_evaluation(dataset: Dataset, config: TuneConfig, seen: Collection[str] = frozenset()) -> EvaluationPlan:
    """Decide how to measure.

    A test split is measured on, else a val split; the shipped prompt then never sees it. Else images that `shots`
    leaves unused; else a stratified held-out part; with fewer than 4 images in the smallest class, cross-validation;
    and where a class has a single image, nothing is measured and the report says so. Images with the same bytes stay
    together.

    Args:
        dataset: The images.
        config: `shots`, `val_fraction`, `refit` and `sampling_seed` are read.
        seen: SHA-256 of images that a parent was tuned on: they are tuned on and never measured on.
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
            return _own_split(dataset, shown, test, split, kind, seen)  # type: ignore[arg-type]
    unused = _unused(dataset, train, shown, seen)
    if unused:
        reason = f"measured on the {len(unused)} images that shots={config.shots} leaves unused"
        fold = Fold(tuple(shown), tuple(unused))
        return EvaluationPlan("unused-images", reason, (fold,), tuple(shown), False, tuple(unused))
    if seen:
        return _from_what_the_parent_did_not_see(dataset, shown, config, seen)
    return _from_training_images(dataset, shown, config)


def _own_split(
    dataset: Dataset, shown: Sequence[int], test: list[int], split: str, kind: Kind, seen: Collection[str]
) -> EvaluationPlan:
    trained = {dataset.samples[i].sha256 for i in shown}
    unseen = [i for i in test if dataset.samples[i].sha256 not in seen]
    fresh = [i for i in unseen if dataset.samples[i].sha256 not in trained]
    notes = []
    if len(fresh) < len(unseen):
        notes.append(
            f"{len(unseen) - len(fresh)} of the {len(test)} images in the {split} split are also in the training "
            "split; they are not measured on."
        )
    if len(unseen) < len(test):
        notes.append(
            f"The parent was tuned on {len(test) - len(unseen)} of the {len(test)} images in the {split} split; they "
            "are not measured on."
        )
    missing = sorted(set(dataset.labels) - {dataset.samples[i].label for i in fresh})
    if missing and fresh:
        notes.append(f"The {split} split has no image of {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}.")
    if not fresh:
        where = "is one the parent was tuned on" if not unseen else "is also in the training split"
        reason = f"every image of the {split} split {where}: nothing is left to measure on"
        return EvaluationPlan("none", reason, (), tuple(shown), False, tuple(shown), tuple(notes))
    reason = f"measured on the data set's own {split} split; no prompt was tuned on it"
    fold = Fold(tuple(shown), tuple(fresh))
    return EvaluationPlan(kind, reason, (fold,), tuple(shown), False, tuple(fresh), tuple(notes))


def _unused(dataset: Dataset, train: Sequence[int], shown: Sequence[int], seen: Collection[str]) -> list[int]:
    """Return the training images that were not drawn, when there are enough of each class."""
    known = {dataset.samples[i].sha256 for i in shown} | set(seen)
    rest = [i for i in train if dataset.samples[i].sha256 not in known]
    counts = Counter(dataset.samples[i].label for i in rest)
    return rest if min(counts.get(label, 0) for label in dataset.labels) >= MIN_UNUSED else []


def _from_training_images(dataset: Dataset, shown: Sequence[int], config: TuneConfig) -> EvaluationPlan:
    labels = [dataset.samples[i].label for i in shown]
    groups = [dataset.samples[i].sha256 for i in shown]
    distinct = distinct_images(labels, groups)
    smallest = min(distinct[label] for label in dataset.labels)
    if smallest >= MIN_TO_HOLD_OUT:
        rest, held = stratified_split(labels, config.val_fraction, config.sampling_seed, groups)
        fold = Fold(tuple(shown[j] for j in rest.tolist()), tuple(shown[j] for j in held.tolist()))
        if fold.test and _covers(dataset, fold.train):
            return _held_out(dataset, fold, tuple(shown), config)
    folds = cross_validation(dataset, shown, config.sampling_seed)
    if folds and all(_covers(dataset, fold.train) for fold in folds):
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


def _from_what_the_parent_did_not_see(
    dataset: Dataset, shown: Sequence[int], config: TuneConfig, seen: Collection[str]
) -> EvaluationPlan:
    """Hold out images that neither the measured prompt nor its parent was tuned on."""
    unseen = [i for i in shown if dataset.samples[i].sha256 not in seen]
    if len(unseen) == len(shown):
        return _from_training_images(dataset, shown, config)
    different = distinct_images([dataset.samples[i].label for i in unseen], [dataset.samples[i].sha256 for i in unseen])
    enough = {label for label, count in different.items() if count >= MIN_TO_HOLD_OUT}
    pool = [i for i in unseen if dataset.samples[i].label in enough]
    held: set[int] = set()
    if pool:
        groups = [dataset.samples[i].sha256 for i in pool]
        labels = [dataset.samples[i].label for i in pool]
        held = {
            pool[j] for j in stratified_split(labels, config.val_fraction, config.sampling_seed, groups)[1].tolist()
        }
    if not held:
        left = f"of the other {len(unseen)} no class has {MIN_TO_HOLD_OUT}" if unseen else "no other is left"
        reason = (
            f"the parent was tuned on {len(shown) - len(unseen)} of the {len(shown)} images, and {left} to measure on"
        )
        return EvaluationPlan("none", reason, (), tuple(shown), False, tuple(shown))
    fold = Fold(tuple(i for i in shown if i not in held), tuple(i for i in shown if i in held))
    missing = sorted(set(dataset.labels) - {dataset.samples[i].label for i in held})
    notes = [_unmeasured(missing)] if missing else []
    return replace(_held_out(dataset, fold, tuple(shown), config), notes=tuple(notes))


def _unmeasured(labels: Sequence[str]) -> str:
    listed = ", ".join(labels[:5]) + (" …" if len(labels) > 5 else "")
    return f"Not measured: {listed}, of which the parent has seen all, or all but a few, of the images."


def cross_validation(dataset: Dataset, indices: Sequence[int], seed: int) -> tuple[Fold, ...]:
    """Split images into stratified folds, at most `MAX_FOLDS`; none where a class has a single image.

    Images with the same bytes stay together. Every image is tested in one fold, but for those whose class would then
    have none to train on; where that leaves a fold without a test image, there are no folds.
    """
    labels = [dataset.samples[i].label for i in indices]
    groups = [dataset.samples[i].sha256 for i in indices]
    if min(distinct_images(labels, groups).values()) < 2:
        return ()
    return _at(indices, folds_of(labels, seed, groups))


def folds_of(labels: Sequence[Label], seed: int, groups: Sequence[Hashable] | None = None) -> tuple[Fold, ...]:
    """Split samples into at most `MAX_FOLDS` stratified folds of positions.

    A class with a single image is trained on in every fold and tested in none. There are no folds where that is more
    than half of the classes or leaves fewer than two, or where one fold would have no test image.

    Args:
        labels: One a sample.
        seed: Any integer from 0.
        groups: Images with the same bytes, which stay together; by default every sample is an image of its own.
    """
    counts = distinct_images(labels, range(len(labels)) if groups is None else groups)
    several = [count for count in counts.values() if count > 1]
    if len(several) < 2 or 2 * len(several) < len(counts):
        return ()
    fold_of = stratified_folds(labels, min(MAX_FOLDS, *several), seed, groups).tolist()
    folds = tuple(
        Fold(
            tuple(j for j, own in enumerate(fold_of) if own != one),
            tuple(j for j, own in enumerate(fold_of) if own == one),
        )
        for one in range(min(MAX_FOLDS, *several))
    )
    return folds if all(fold.test for fold in folds) else ()


def distinct_images(labels: Sequence[Label], groups: Sequence[Hashable]) -> Counter[Label]:
    """Return how many different images each label has."""
    return Counter(label for label, _ in set(zip(labels, groups, strict=True)))


def inner_folds(
    dataset: Dataset, plan: EvaluationPlan, seed: int, seen: Collection[str] = frozenset()
) -> tuple[Fold, ...]:
    """Split the training images of the one measured fold, so that something can be chosen by them.

    No image that the plan measures on is in these folds, and none that a parent was tuned on is in their test parts.
    There are none where the plan itself cross-validates or measures nothing, and where most classes have a single
    training image; see `why_no_inner_folds`.
    """
    if len(plan.folds) != 1:
        return ()
    indices = plan.folds[0].train
    samples = [dataset.samples[i] for i in indices]
    found = folds_of([sample.label for sample in samples], seed, [sample.sha256 for sample in samples])
    folds = tuple(
        replace(fold, test=tuple(i for i in fold.test if dataset.samples[i].sha256 not in seen))
        for fold in _at(indices, found)
    )
    return folds if all(fold.test for fold in folds) else ()


def _at(indices: Sequence[int], folds: Sequence[Fold]) -> tuple[Fold, ...]:
    """Return folds of positions in `indices` as folds of those indices."""
    return tuple(Fold(tuple(indices[j] for j in fold.train), tuple(indices[j] for j in fold.test)) for fold in folds)


def why_no_inner_folds(plan: EvaluationPlan) -> str:
    """Return the reason for people why `inner_folds` came to nothing."""
    if not plan.folds:
        return plan.reason
    if len(plan.folds) > 1:
        return "a class has so few that the report itself takes cross-validation"
    return "too few classes have two different images beside the measured ones"


def _held_out(dataset: Dataset, fold: Fold, shown: tuple[int, ...], config: TuneConfig) -> EvaluationPlan:
    reason = f"measured on {len(fold.test)} held-out images, some of each class, which the measured prompt had not seen"
    if config.refit:
        reason += "; the shipped prompt was then tuned once more on all images with the same schedule"
    ship = shown if config.refit else fold.train
    return EvaluationPlan("held-out", reason, (fold,), ship, config.refit, fold.test)


def _covers(dataset: Dataset, indices: Sequence[int]) -> bool:
    return {dataset.samples[i].label for i in indices} == set(dataset.labels)
