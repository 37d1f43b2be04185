"""What the report says of how sure a classifier is: before and after the temperature, and where to stop answering."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from npt_core.calibration import (
    MIN_IMAGES,
    Calibration,
    Certainty,
    Fit,
    certainty,
    cross_fitted,
    fit_temperature,
    folds_of,
)
from npt_core.report.statistics import wilson_interval
from npt_core.tuning.evaluate import ECE_BINS

THRESHOLDS = (*(step / 20 for step in range(20)), 0.99)
TARGET_ACCURACY = 0.9
"""Of the images that are still answered where the recommended threshold is used."""


def reliability(sure: Certainty, labels: Tensor) -> dict[str, Any]:
    """Compare how sure answers were with how often they were right.

    Args:
        sure: The answers to n images.
        labels: (n,) true classes.

    Returns:
        `ece` (as `evaluate.calibration_error`), `nll` (nats), and `bins`: those of equal width that hold an image, each
        with its `count`, mean `confidence` and `accuracy`.
    """
    confidence, right = sure.confidence.numpy(), (sure.answers == labels).numpy()
    place = np.minimum((confidence * ECE_BINS).astype(int), ECE_BINS - 1)
    bins = [
        {
            "low": number / ECE_BINS,
            "high": (number + 1) / ECE_BINS,
            "count": int((place == number).sum()),
            "confidence": float(confidence[place == number].mean()),
            "accuracy": float(right[place == number].mean()),
        }
        for number in np.unique(place).tolist()
    ]
    error = sum(one["count"] * abs(one["confidence"] - one["accuracy"]) for one in bins) / len(labels)
    return {"ece": error, "nll": float(-sure.log_own.mean()), "bins": bins}


def thresholds(sure: Certainty, labels: Tensor) -> list[dict[str, Any]]:
    """Say what becomes of the images for each threshold: an answer counts where its probability is not below it."""
    confidence, right = sure.confidence.numpy(), (sure.answers == labels).numpy()
    rows = []
    for threshold in THRESHOLDS:
        answered = confidence >= threshold
        count, hits = int(answered.sum()), int((answered & right).sum())
        rows.append(
            {
                "threshold": threshold,
                "answered": count,
                "answered_share": count / len(right),
                "accuracy": hits / count if count else None,
                "wrong_answered": count - hits,
                "right_rejected": int(right.sum()) - hits,
            }
        )
    return rows


def recommended(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the lowest threshold whose answered images are surely right often enough, or why there is none.

    Args:
        rows: Of `thresholds`.

    Returns:
        `threshold` (None where none will do), `reason`, `target_accuracy`; with a threshold also `accuracy` and
        `answered_share` of the images it was found on, and `accuracy_low`, the lower end of the 95 % Wilson interval.
    """
    for row in rows:
        answered = int(row["answered"])
        interval = wilson_interval(answered - int(row["wrong_answered"]), answered)
        if interval is not None and interval[0] >= TARGET_ACCURACY:
            return {
                "threshold": row["threshold"],
                "reason": _why(row),
                "target_accuracy": TARGET_ACCURACY,
                "accuracy": row["accuracy"],
                "accuracy_low": interval[0],
                "answered_share": row["answered_share"],
            }
    return {"threshold": None, "reason": _why_none(int(rows[0]["answered"])), "target_accuracy": TARGET_ACCURACY}


def _why(row: Mapping[str, Any]) -> str:
    reason = (
        f"the lowest threshold at which the answered images ({row['answered']} of them, {row['accuracy']:.1%} right) "
        f"are right in at least {TARGET_ACCURACY:.0%} of cases, by the 95 % Wilson interval"
    )
    return reason + "; nothing need be rejected for that" if row["threshold"] == 0 else reason


def _why_none(total: int) -> str:
    enough = next(n for n in range(1, 1000) if (wilson_interval(n, n) or (0.0,))[0] >= TARGET_ACCURACY)
    if total < enough:
        return (
            f"{total} measured images are too few: {enough} right answers without a wrong one would be needed to tell "
            f"that at least {TARGET_ACCURACY:.0%} are right"
        )
    return (
        f"at no threshold are the answered images right in at least {TARGET_ACCURACY:.0%} of cases, by the 95 % Wilson "
        "interval"
    )


def measure(
    tuned: Tensor, zero_shot: Tensor, labels: Tensor, groups: Sequence[Hashable], source: str
) -> tuple[dict[str, Any] | None, str | None]:
    """Fit a temperature and compare how sure the classifier is before and after.

    "After" is cross-fitted: each image is judged with a temperature that was fitted without it and its copies. The
    stored temperature is fitted on all of them.

    Args:
        tuned: (n, K) logits as they are served, of images that no measured prompt had seen.
        zero_shot: (n, K) logits on the same images.
        labels: (n,) true classes.
        groups: One an image, the same for the same bytes.
        source: Kind of the evaluation plan.

    Returns:
        What the report says, see `Report.calibration`, or None where the images are too few; and a warning, or None.
    """
    count = len(set(groups))
    if count < MIN_IMAGES:
        return None, (
            f"The scores are not calibrated: that takes {MIN_IMAGES} different measured images, there are {count}. Add "
            "images, or hold more of them out (val_fraction)."
        )
    fit = fit_temperature(tuned, labels)
    after = cross_fitted(tuned, labels, folds_of(groups))
    rows = thresholds(after, labels)
    told = {
        "temperature": fit.temperature,
        "count": len(labels),
        "source": source,
        "before": reliability(certainty(tuned, labels), labels),
        "after": reliability(after, labels),
        "zero_shot": reliability(certainty(zero_shot, labels), labels),
        "thresholds": rows,
        "recommended": recommended(rows),
    }
    return told, _bound_warning(fit)


def _bound_warning(fit: Fit) -> str | None:
    if fit.bound is None:
        return None
    why = {
        "upper": "the measured answers are no better than chance, and no probability of this model means much",
        "lower": "the logits of different classes hardly differ, although they tell the measured images apart",
    }[fit.bound]
    return f"The temperature that was fitted ended at its bound, {fit.temperature:g}: {why}."


def to_store(
    told: Mapping[str, Any] | None, source: str, reject_below: float | str | None
) -> tuple[Calibration, str | None]:
    """Return what the manifest keeps.

    Args:
        told: Of `measure`.
        source: Kind of the evaluation plan.
        reject_below: As the config asks for it: a number, `recommended`, or None.

    Returns:
        The calibration; and a warning where a threshold was asked for and none can be recommended, or None.
    """
    warning, threshold = None, None
    if isinstance(reject_below, str):
        found: Mapping[str, Any] = (
            {"threshold": None, "reason": "nothing was calibrated"} if told is None else told["recommended"]
        )
        threshold = found["threshold"]
        if threshold is None:
            warning = f"No reject_below can be recommended, so none is stored: {found['reason']}."
    else:
        threshold = reject_below
    if told is None:
        return Calibration(source=source, reject_below=threshold), warning
    return Calibration(told["temperature"], told["count"], source, threshold), warning
