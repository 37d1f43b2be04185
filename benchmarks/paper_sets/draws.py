"""The exponential long tail of the imbalance protocol, on the items of a data set."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from benchmarks.paper_sets.items import SHOWN, Item
from npt_core.data.sampling import Label, few_shot, imbalanced_counts
from npt_core.errors import DatasetError


def long_tail(items: Sequence[Item], n_max: int, tau: float, seed: int) -> tuple[Item, ...]:
    """Draw max(1, floor(n_max * tau^(k/(K-1)))) items of each class, k = 0 ... K-1.

    The seed says which class gets which k, and which items are drawn. K counts the classes that `items` has: for
    base-to-novel, draw from the base classes alone. With `tau` 1 this is the few-shot draw of `n_max` images.

    Args:
        items: Of a train part, or of some of its classes.
        n_max: Items of the largest class, at least 1.
        tau: n_min / n_max, above 0 to 1.
        seed: Any integer from 0.

    Returns:
        The drawn items, in the order of `items`.

    Raises:
        ConfigError: A value out of range.
        DatasetError: No items, or a class with fewer than its share: taking what is there would be another tau.

    Source: the imbalance protocol of NPT, arXiv 2306.15955.
    """
    labels = [item.label for item in items]
    have = Counter(labels)
    classes = sorted(have)
    if not classes:
        raise DatasetError("There are no items to draw a long tail from; the train part of a data set is expected.")
    share: dict[Label, int] = dict(zip(classes, imbalanced_counts(len(classes), n_max, tau, seed), strict=True))
    poor = [label for label in classes if have[label] < share[label]]
    if poor:
        name = {item.label: item.classname for item in items}
        listed = ", ".join(f"{name[label]} has {have[label]} of {share[label]}" for label in poor[:SHOWN])
        raise DatasetError(
            f"{len(poor)} of {len(classes)} classes have fewer images than a long tail of {n_max} with tau {tau} "
            f"takes: {listed}. Ask for an n_max of at most {min(have.values())}, which every class has."
        )
    return tuple(items[int(i)] for i in few_shot(labels, share, seed))
