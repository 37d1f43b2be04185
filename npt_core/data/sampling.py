"""Who is in which part: few-shot draws, held-out parts, folds, imbalance, base and novel classes.

Every draw is seeded and gives the same answer on every machine and every release: the numbers are the raw output of
PCG64, which NumPy promises never to change (it makes no such promise for `Generator.permutation`), and each class
has a stream of its own, keyed by its label, so that adding a class changes no other class's draw.

All functions speak of positions: they take one label a sample and return indices into that list.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from npt_core.errors import ConfigError

Label: TypeAlias = str | int
Indices: TypeAlias = npt.NDArray[np.int64]

ALWAYS_TRAIN = -1
"""The fold of a sample that is never held out."""


def few_shot(labels: Sequence[Label], n: int | Mapping[Label, int], seed: int) -> Indices:
    """Draw at most `n` samples of each class.

    The draw of 4 is part of the draw of 8 with the same seed, so that more shots mean the same pictures and others.

    Args:
        labels: One a sample.
        n: How many of each class, or label -> how many (0 for labels not named).
        seed: Any integer from 0.

    Returns:
        Sorted positions. A class with fewer than `n` samples gives all it has.

    Raises:
        ConfigError: A count below 1 (or below 0 in a mapping), or a negative seed.

    Source: the few-shot protocol of CoOp, arXiv 2109.01134.
    """
    counts = dict(n) if isinstance(n, Mapping) else dict.fromkeys(labels, n)
    least = 0 if isinstance(n, Mapping) else 1
    if any(count < least for count in counts.values()):
        raise ConfigError(f"shots is {min(counts.values())}; at least {least} is needed.")
    drawn: list[int] = []
    for label, members in _by_class(labels).items():
        order = _permutation(len(members), seed, "few-shot", label)
        drawn.extend(members[i] for i in order[: counts.get(label, 0)])
    return _indices(drawn)


def stratified_split(
    labels: Sequence[Label], fraction: float, seed: int, groups: Sequence[Hashable] | None = None
) -> tuple[Indices, Indices]:
    """Hold out about `fraction` of every class.

    Samples of one group (views of one image, exact duplicates) end on one side, across classes too. A class of at
    least two groups gets at least one held-out sample where whole groups allow it; every class keeps at least one
    training sample; a class of one group is never held out.

    Args:
        labels: One a sample.
        fraction: From 0 (nothing held out) to below 1.
        seed: Any integer from 0.
        groups: One a sample; equal means together. Default: every sample on its own.

    Returns:
        Sorted positions to train on, sorted positions held out; together every position once.

    Raises:
        ConfigError: `fraction` out of range, or another number of groups than labels.
    """
    if not 0 <= fraction < 1:
        raise ConfigError(f"The held-out fraction is {fraction}; from 0 to below 1 is accepted.")
    units = _units(labels, groups, seed, "split")
    sizes = Counter(labels)
    units_of = Counter(label for unit in units for label in unit.counts)
    target = {label: _held_target(size, units_of[label], fraction) for label, size in sizes.items()}
    held: Counter[Label] = Counter()
    held_units: Counter[Label] = Counter()
    chosen: set[int] = set()

    def take(unit: _Unit, number: int) -> None:
        chosen.add(number)
        held.update(unit.counts)
        held_units.update(unit.counts.keys())

    def leaves_training(unit: _Unit) -> bool:
        return all(held_units[label] + 1 < units_of[label] for label in unit.counts)

    for number, unit in enumerate(units):
        if leaves_training(unit) and all(held[label] + n <= target[label] for label, n in unit.counts.items()):
            take(unit, number)
    # A class whose groups are all larger than its share got nothing: give it its smallest, overshooting.
    for number, unit in sorted(enumerate(units), key=lambda item: len(item[1].members)):
        wants = any(target[label] and not held[label] for label in unit.counts)
        if number not in chosen and wants and leaves_training(unit):
            take(unit, number)
    held_out = [i for number in chosen for i in units[number].members]
    return _indices(set(range(len(labels))) - set(held_out)), _indices(held_out)


def stratified_folds(labels: Sequence[Label], k: int, seed: int, groups: Sequence[Hashable] | None = None) -> Indices:
    """Deal the samples of every class to `k` folds as evenly as whole groups allow.

    Args:
        labels: One a sample.
        k: Number of folds, at least 2.
        seed: Any integer from 0.
        groups: As in `stratified_split`.

    Returns:
        (n,) the fold of each sample, 0 to k - 1. `ALWAYS_TRAIN` marks samples that no fold holds out because their
        class would have nothing left to train on. Without groups, the sizes of a class's folds differ by at most one.

    Raises:
        ConfigError: Fewer than two folds, or another number of groups than labels.
    """
    if k < 2:
        raise ConfigError(f"{k} folds; at least 2 are needed.")
    units = _units(labels, groups, seed, "folds")
    in_fold: dict[Label, list[int]] = {label: [0] * k for label in set(labels)}
    totals = [0] * k
    fold_of: dict[int, int] = {}
    for number, unit in enumerate(units):
        load = [sum(in_fold[label][fold] for label in unit.counts) for fold in range(k)]
        fold = min(range(k), key=lambda f: (load[f], totals[f], f))
        fold_of[number] = fold
        totals[fold] += len(unit.members)
        for label, count in unit.counts.items():
            in_fold[label][fold] += count
    for number, unit in enumerate(units):  # a class that sits in one fold alone would be missing when it is held out
        if any(sum(count > 0 for count in in_fold[label]) < 2 for label in unit.counts):
            fold_of[number] = ALWAYS_TRAIN
    folds = np.empty(len(labels), dtype=np.int64)
    for number, unit in enumerate(units):
        folds[unit.members] = fold_of[number]
    return folds


def imbalanced_counts(K: int, n_max: int, tau: float, seed: int) -> list[int]:
    """How many samples each of `K` classes gets in a long-tailed draw.

    n_k = max(1, floor(n_max · τ^(k/(K−1)))), k = 0 … K−1; a seeded permutation says which class gets which.

    Args:
        K: Number of classes, at least 1.
        n_max: Samples of the largest class, at least 1.
        tau: n_min / n_max, above 0 to 1.
        seed: Any integer from 0.

    Returns:
        K counts, one for each class in sorted order.

    Raises:
        ConfigError: A value out of range.

    Source: the imbalance protocol of NPT, arXiv 2306.15955.
    """
    if K < 1 or n_max < 1 or not 0 < tau <= 1:
        raise ConfigError(
            f"Imbalance with {K} classes, at most {n_max} samples and tau {tau}; classes and samples from 1 and tau "
            "above 0 to 1 are accepted."
        )
    # The powers of one machine may lie a rounding error below those of another: a floor must not see that.
    counts = [max(1, math.floor(n_max * tau ** (k / max(K - 1, 1)) + 1e-9)) for k in range(K)]
    return [counts[i] for i in _permutation(K, seed, "imbalance", "")]


def base_to_novel(labels: Sequence[Label]) -> tuple[list[Label], list[Label]]:
    """Split the classes in two: sorted, the first ceil(K/2) are base, the others novel.

    Args:
        labels: Labels, each any number of times.

    Source: CoCoOp, arXiv 2203.05557.
    """
    classes = sorted(set(labels), key=_class_order)
    half = math.ceil(len(classes) / 2)
    return classes[:half], classes[half:]


class _Unit:
    """Samples that stay together, and how many of each class they are."""

    __slots__ = ("counts", "members")

    def __init__(self, members: list[int], labels: Sequence[Label]) -> None:
        self.members = members
        self.counts = Counter(labels[i] for i in members)


def _units(labels: Sequence[Label], groups: Sequence[Hashable] | None, seed: int, purpose: str) -> list[_Unit]:
    """The groups in a seeded order: within a class by the class's own stream, classes interleaved."""
    if groups is not None and len(groups) != len(labels):
        raise ConfigError(f"{len(groups)} groups for {len(labels)} samples; one group a sample is needed.")
    together: dict[Hashable, list[int]] = {}
    for i, group in enumerate(range(len(labels)) if groups is None else groups):
        together.setdefault(group, []).append(i)
    first_of: dict[Label, list[list[int]]] = {}
    for members in together.values():
        first_of.setdefault(labels[members[0]], []).append(members)
    ranked: list[tuple[int, tuple[bool, Label], list[int]]] = []
    for label, member_lists in first_of.items():
        order = _permutation(len(member_lists), seed, purpose, label)
        ranked.extend((rank, _class_order(label), member_lists[i]) for rank, i in enumerate(order))
    ranked.sort(key=lambda item: item[:2])
    return [_Unit(members, labels) for _, _, members in ranked]


def _held_target(size: int, units: int, fraction: float) -> int:
    if fraction == 0 or units < 2:
        return 0
    return max(1, math.floor(size * fraction + 0.5))


def _by_class(labels: Sequence[Label]) -> dict[Label, list[int]]:
    members: dict[Label, list[int]] = {}
    for i, label in enumerate(labels):
        members.setdefault(label, []).append(i)
    return members


def _class_order(label: Label) -> tuple[bool, Label]:
    return isinstance(label, str), label


def _permutation(n: int, seed: int, purpose: str, label: Label) -> list[int]:
    if seed < 0:
        raise ConfigError(f"The seed is {seed}; a whole number from 0 is accepted.")
    key = hashlib.sha256(f"{purpose}\0{label}".encode("utf-8", "surrogatepass")).digest()
    stream = np.random.PCG64(np.random.SeedSequence([seed, *key]))
    order: list[int] = np.argsort(stream.random_raw(n), kind="stable").tolist()
    return order


def _indices(positions: set[int] | list[int]) -> Indices:
    return np.array(sorted(positions), dtype=np.int64)
