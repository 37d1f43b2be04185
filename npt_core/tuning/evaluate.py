"""Metrics of a classifier on images it did not see, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

Z95 = 1.959963984540054
ECE_BINS = 15
MAX_CONFUSION_CLASSES = 200
"""Beyond it the report lists the most confused pairs only: K^2 numbers help nobody."""


def wilson_interval(successes: int, total: int, z: float = Z95) -> tuple[float, float] | None:
    """Return the Wilson score interval of a proportion, None without trials.

    Source: Wilson, JASA 1927. Unlike the normal interval it stays in [0, 1] and is honest at 0 and 1.
    """
    if total == 0:
        return None
    share = successes / total
    z2 = z * z / total
    middle = (share + z2 / 2) / (1 + z2)
    half = z / (1 + z2) * math.sqrt(share * (1 - share) / total + z2 / (4 * total))
    return (max(0.0, min(share, middle - half)), min(1.0, max(share, middle + half)))  # rounding must not exclude it


def calibration_error(probabilities: np.ndarray[Any, Any], labels: np.ndarray[Any, Any], bins: int = ECE_BINS) -> float:
    """Return the expected calibration error of the top class over equally wide bins.

    Source: Guo et al., arXiv 1706.04599.
    """
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == labels
    which = np.minimum((confidence * bins).astype(int), bins - 1)
    error = 0.0
    for one in np.unique(which):
        inside = which == one
        error += inside.mean() * abs(right[inside].mean() - confidence[inside].mean())
    return float(error)


def _ratio(above: float, below: float) -> float | None:
    return float(above / below) if below else None


def metrics(logits: Tensor, labels: Tensor, class_labels: Sequence[str]) -> dict[str, Any]:
    """Measure (n, K) logits against (n,) labels.

    Returns:
        `count`, `accuracy`, `accuracy_interval` (95 %, Wilson), `macro` and `per_class` precision, recall, F1 and
        support (None where undefined: a class never predicted has no precision), `confusion` (rows are the truth),
        `calibration_error`, `nll` (nats).
    """
    n, num_classes = logits.shape
    log_probabilities = torch.log_softmax(logits.double().cpu(), dim=1)
    truth = labels.cpu().numpy()
    probabilities = log_probabilities.exp().numpy()
    predicted = logits.cpu().argmax(dim=1).numpy()  # of the logits: softmax can tie what they tell apart
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (truth, predicted), 1)
    right = int(np.trace(confusion))
    support, called, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diag(confusion)
    per_class = []
    for number, label in enumerate(class_labels):
        precision, recall = _ratio(hits[number], called[number]), _ratio(hits[number], support[number])
        f1 = _ratio(2 * hits[number], support[number] + called[number]) if support[number] else None
        per_class.append(
            {"label": label, "precision": precision, "recall": recall, "f1": f1, "support": int(support[number])}
        )
    present = [entry for entry in per_class if entry["support"]]

    def macro(name: str) -> float | None:  # over classes that occur; one never predicted counts as 0
        return float(np.mean([entry[name] or 0.0 for entry in present])) if present else None

    interval = wilson_interval(right, n)
    return {
        "count": n,
        "accuracy": right / n if n else None,
        "accuracy_interval": None if interval is None else list(interval),
        "macro": {name: macro(name) for name in ("precision", "recall", "f1")},
        "per_class": per_class,
        "confusion": confusion.tolist() if num_classes <= MAX_CONFUSION_CLASSES else None,
        "most_confused": _most_confused(confusion, class_labels),
        "calibration_error": calibration_error(probabilities, truth) if n else None,
        "nll": float(-log_probabilities.numpy()[np.arange(n), truth].mean()) if n else None,
    }


def _most_confused(confusion: np.ndarray[Any, Any], labels: Sequence[str], limit: int = 10) -> list[dict[str, Any]]:
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    order = np.argsort(-wrong, axis=None, kind="stable")[:limit]
    pairs = [divmod(int(flat), len(labels)) for flat in order]
    return [
        {"label": labels[true], "predicted": labels[guess], "count": int(wrong[true, guess])}
        for true, guess in pairs
        if wrong[true, guess]
    ]


def paired(zero_shot: Tensor, tuned: Tensor, labels: Tensor) -> dict[str, Any]:
    """Compare two classifiers on the same n images.

    Args:
        zero_shot: (n, K) logits.
        tuned: (n, K) logits.
        labels: (n,).

    Returns:
        How many images both, only one, or neither got right, the difference of accuracies, and the exact two-sided
        p-value that so uneven a split of the images where they differ is chance.

    Source: McNemar, Psychometrika 1947, in its exact binomial form.
    """
    first = zero_shot.argmax(dim=1).cpu() == labels.cpu()
    second = tuned.argmax(dim=1).cpu() == labels.cpu()
    gained, lost = int((~first & second).sum()), int((first & ~second).sum())
    differ = gained + lost
    tail = sum(math.comb(differ, k) for k in range(min(gained, lost) + 1))
    return {
        "both_right": int((first & second).sum()),
        "only_tuned_right": gained,
        "only_zero_shot_right": lost,
        "both_wrong": int((~first & ~second).sum()),
        "difference": (gained - lost) / len(labels) if len(labels) else None,
        "p_value": min(1.0, 2 * tail / 2**differ) if differ else 1.0,
    }
