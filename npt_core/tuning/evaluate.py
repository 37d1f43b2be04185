"""Metrics of a classifier on images it did not see, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import Tensor

from npt_core.calibration import certainty
from npt_core.report.statistics import wilson_interval

Array = np.ndarray[Any, Any]

ECE_BINS = 15
MAX_CONFUSION_CLASSES = 200
"""Beyond it the report lists the most confused pairs only: K^2 numbers help nobody."""


def calibration_error(probabilities: Array, labels: Array, bins: int = ECE_BINS) -> float:
    """Return the expected calibration error of the top class of (n, K) probabilities over equally wide bins.

    Source: Guo et al., arXiv 1706.04599.
    """
    return _gap(probabilities.max(axis=1), probabilities.argmax(axis=1) == labels, bins)


def _gap(confidence: Array, right: Array, bins: int = ECE_BINS) -> float:
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for one in np.unique(which):
        inside = which == one
        error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def metrics(logits: Tensor, labels: Tensor, class_labels: Sequence[str]) -> dict[str, Any]:
    """Measure (n, K) logits against (n,) labels; see `summarise`."""
    sure = certainty(logits, labels)
    facts = (labels.cpu().numpy(), sure.answers.numpy(), sure.confidence.numpy(), sure.log_own.numpy())
    return summarise(*facts, class_labels)


def summarise(
    truth: Array, predicted: Array, confidence: Array, log_own: Array, labels: Sequence[str]
) -> dict[str, Any]:
    """Measure answers to n images; what is kept of each image does not grow with the classes.

    Args:
        truth: (n,) positions of the true classes in `labels`.
        predicted: (n,) positions of the answers.
        confidence: (n,) probability of the answer, 0 to 1.
        log_own: (n,) log probability of the true class, nats; -inf where the classifier does not know the class.
        labels: The K classes.

    Returns:
        `count`, `accuracy`, `accuracy_interval` (95 %, Wilson), `macro` and `per_class` precision, recall, F1 and
        support (None where undefined: a class never predicted has no precision), `confusion` (rows are the truth),
        `calibration_error`, `nll` (nats; None where it is infinite).
    """
    n, num_classes = len(truth), len(labels)
    right = truth == predicted
    per_class = _per_class(truth, predicted, labels)
    present = [entry for entry in per_class if entry["support"]]

    def macro(name: str) -> float | None:  # over classes that occur; one never predicted counts as 0
        return float(np.mean([entry[name] or 0.0 for entry in present])) if present else None

    hits = int(right.sum())
    interval = wilson_interval(hits, n)
    nll = float(-log_own.mean()) if n else None
    return {
        "count": n,
        "accuracy": hits / n if n else None,
        "accuracy_interval": None if interval is None else list(interval),
        "macro": {name: macro(name) for name in ("precision", "recall", "f1")},
        "per_class": per_class,
        "confusion": _confusion(truth, predicted, num_classes),
        "most_confused": _most_confused(truth, predicted, labels),
        "calibration_error": _gap(confidence, right) if n and np.isfinite(confidence).all() else None,
        "nll": nll if nll is not None and math.isfinite(nll) else None,
    }


def _confusion(truth: Array, predicted: Array, num_classes: int) -> list[list[int]] | None:
    if num_classes > MAX_CONFUSION_CLASSES:
        return None
    table = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(table, (truth, predicted), 1)
    found: list[list[int]] = table.tolist()
    return found


def _per_class(truth: Array, predicted: Array, labels: Sequence[str]) -> list[dict[str, Any]]:
    num_classes = len(labels)
    support, called = (np.bincount(one, minlength=num_classes) for one in (truth, predicted))
    hits = np.bincount(truth[truth == predicted], minlength=num_classes)
    return [
        {
            "label": label,
            "precision": _ratio(hits[number], called[number]),
            "recall": _ratio(hits[number], support[number]),
            "f1": _ratio(2 * hits[number], support[number] + called[number]) if support[number] else None,
            "support": int(support[number]),
        }
        for number, label in enumerate(labels)
    ]


def _most_confused(truth: Array, predicted: Array, labels: Sequence[str], limit: int = 10) -> list[dict[str, Any]]:
    wrong = truth != predicted
    # Of the pairs that occur: a table of K x K would not fit where K is large.
    pairs, counts = np.unique(truth[wrong].astype(np.int64) * len(labels) + predicted[wrong], return_counts=True)
    order = np.argsort(-counts, kind="stable")[:limit]
    named = [(divmod(int(pairs[one]), len(labels)), int(counts[one])) for one in order]
    return [{"label": labels[true], "predicted": labels[guess], "count": count} for (true, guess), count in named]


def mcnemar(first: Array, second: Array) -> dict[str, Any]:
    """Compare two classifiers by the (n,) images each got right.

    Returns:
        How many images both, only one, or neither got right, the difference of accuracies (first - second), and the
        exact two-sided p-value that so uneven a split of the images where they differ is chance.

    Source: McNemar, Psychometrika 1947, in its exact binomial form.
    """
    only_first, only_second = int((first & ~second).sum()), int((~first & second).sum())
    differ = only_first + only_second
    ways, tail = 1, 0  # ways: of choosing k of those that differ
    for k in range(min(only_first, only_second) + 1):
        tail += ways
        ways = ways * (differ - k) // (k + 1)
    return {
        "both_right": int((first & second).sum()),
        "only_first_right": only_first,
        "only_second_right": only_second,
        "both_wrong": int((~first & ~second).sum()),
        "difference": (only_first - only_second) / len(first) if len(first) else None,
        "p_value": min(1.0, 2 * tail / 2**differ),
    }


def paired(zero_shot: Tensor, tuned: Tensor, labels: Tensor) -> dict[str, Any]:
    """Compare tuned with zero-shot on the same n images; see `mcnemar`.

    Args:
        zero_shot: (n, K) logits.
        tuned: (n, K) logits.
        labels: (n,).
    """
    both = mcnemar(
        (tuned.argmax(dim=1).cpu() == labels.cpu()).numpy(), (zero_shot.argmax(1).cpu() == labels.cpu()).numpy()
    )
    return {
        "both_right": both["both_right"],
        "only_tuned_right": both["only_first_right"],
        "only_zero_shot_right": both["only_second_right"],
        "both_wrong": both["both_wrong"],
        "difference": both["difference"],
        "p_value": both["p_value"],
    }
