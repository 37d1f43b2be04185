"""What is tuned on and what is measured on: few-shot, base-to-novel, imbalance, cross-dataset (docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from benchmarks.evidence.data import LabelledSet
from npt_core.data.sampling import few_shot, imbalanced_counts

OpenSet = Callable[[str], LabelledSet]


@dataclass(frozen=True)
class Target:
    """Pictures to measure on, among which classes.

    Attributes:
        name: base, novel, all, or the name of another set.
        rows: Positions in `data`.
        labels: (n,) positions in `classes`.
        classes: Names to choose among.
    """

    name: str
    data: LabelledSet
    rows: Tensor
    labels: Tensor
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Task:
    """One training set and what the prompt tuned on it is measured on."""

    train: Target
    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Draw:
    """How a training set is drawn: at most `shots` a class, fewer by `tau`, with a sampling seed."""

    shots: int
    tau: float
    seed: int


def part(data: LabelledSet, name: str, numbers: Sequence[int], rows: Tensor) -> Target:
    """Return those of `rows` whose label is one of `numbers`, numbered anew in their order."""
    order = {number: position for position, number in enumerate(numbers)}
    kept = [row for row in rows.tolist() if int(data.labels[row]) in order]
    labels = torch.tensor([order[int(data.labels[row])] for row in kept], dtype=torch.int64)
    return Target(
        name, data, torch.tensor(kept, dtype=torch.int64), labels, tuple(data.names[number] for number in numbers)
    )


def drawn(data: LabelledSet, numbers: Sequence[int], draw: Draw) -> Target:
    """Draw a training set of the classes `numbers`."""
    pool = part(data, "train", numbers, data.pool)
    counts = imbalanced_counts(len(numbers), draw.shots, draw.tau, draw.seed)
    chosen = torch.as_tensor(few_shot(pool.labels.tolist(), dict(enumerate(counts)), draw.seed))
    return Target("train", data, pool.rows[chosen], pool.labels[chosen], pool.classes)


def base_to_novel(data: LabelledSet, draw: Draw, open_set: OpenSet) -> Task:
    """Tune on the first half of the classes; measure on them, and on the others with the same prompt."""
    half = (len(data.names) + 1) // 2
    base, novel = range(half), range(half, len(data.names))
    return Task(drawn(data, base, draw), (part(data, "base", base, data.held), part(data, "novel", novel, data.held)))


def all_classes(data: LabelledSet, draw: Draw, open_set: OpenSet) -> Task:
    """Tune and measure on all classes: the few-shot curve, and imbalance where tau is below 1."""
    every = range(len(data.names))
    return Task(drawn(data, every, draw), (part(data, "all", every, data.held),))


RELATED: Mapping[str, tuple[str, ...]] = {
    "digits": ("compositional", "outlines", "rotated"),
    "compositional": ("digits", "outlines", "rotated"),
    "outlines": ("digits", "compositional", "rotated"),
    "rotated": ("digits", "compositional", "outlines"),
}
"""Drawn sets that a prompt is carried over to; with the paper's sets: every other one of the run."""


def cross_dataset(data: LabelledSet, draw: Draw, open_set: OpenSet) -> Task:
    """Tune on all classes of one set; measure on other sets with their own names, unchanged."""
    others = [open_set(name) for name in RELATED.get(data.name, ())]
    every = range(len(data.names))
    targets = [part(other, other.name, range(len(other.names)), other.held) for other in others]
    return Task(drawn(data, every, draw), (part(data, "all", every, data.held), *targets))


PROTOCOLS: Mapping[str, Callable[[LabelledSet, Draw, OpenSet], Task]] = {
    "base-to-novel": base_to_novel,
    "few-shot": all_classes,
    "imbalance": all_classes,
    "cross-dataset": cross_dataset,
}
