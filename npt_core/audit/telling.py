"""From what an audit saw to findings: sentences, names, and what may be done about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from npt_core.audit.crossval import Ints, Judged
from npt_core.audit.near import NearGroup
from npt_core.data.audit import TINY_CLASS
from npt_core.data.faults import plural
from npt_core.data.findings import MAX_PATHS, Finding, Severity, finding
from npt_core.data.ingest import Sample
from npt_core.data.layout import TRAIN
from npt_core.data.names import shown
from npt_core.errors import Fault

UNLIKELY = 0.05
"""A label is doubted when its probability is below this and another class's threshold is reached."""

FAR = 3.0
"""An outlier is farther from every class than the median picture, by this times the spread of the upper tail."""

MIN_PICTURES = 20
"""Fewer pictures have no spread to speak of."""


def unreadable(bad: Sequence[Fault]) -> Iterator[Finding]:
    """Pictures whose header was good and whose pixels are not."""
    if bad:
        paths = [fault.path for fault in bad[:MAX_PATHS]]
        yield finding(
            "unreadable",
            "warning",
            f"{plural(len(bad), 'file')} cannot be decoded, and a tuning leaves them out: remove them, or add them "
            "again in one piece",
            paths,
            count=len(bad),
            items=[{"path": fault.path, "reason": fault.message} for fault in bad[:MAX_PATHS]],
            suggest={"edit": {"remove": paths}},
        )


def near_duplicates(pictures: Sequence[Sample], groups: Sequence[NearGroup]) -> Iterator[Finding]:
    """Groups of pictures that look the same, by what is wrong about them."""
    classes = [group for group in groups if group.across_classes]
    splits = [group for group in groups if group.across_splits]
    others = [group for group in groups if not group.across_classes and not group.across_splits]
    if classes:
        yield _near(
            "near-duplicate-across-classes",
            "warning",
            f"{plural(len(classes), 'group')} of pictures that look the same (resized, compressed again, hardly "
            "changed) have different labels; only one can be right: relabel or remove the wrong ones",
            pictures,
            classes,
        )
    if splits:
        yield _near(
            "near-duplicate-across-splits",
            "warning",
            f"{plural(len(splits), 'group')} of pictures that look the same lie in more than one split, so the "
            "measured accuracy will be too good: remove them from the test or validation part",
            pictures,
            splits,
            remove=[path for group in splits if not group.across_classes for path in _leaked(pictures, group)],
        )
    if others:
        yield _near(
            "near-duplicate",
            "info",
            f"{plural(len(others), 'group')} of pictures of one class look the same; they weigh more, and may stand "
            "on both sides when a part is held out: remove all but one of each",
            pictures,
            others,
            remove=[path for group in others for path in _spare(pictures, group)],
        )


def _leaked(pictures: Sequence[Sample], group: NearGroup) -> list[str]:
    """Everything outside the training part; without a training picture, everything but one."""
    members = [pictures[i] for i in group.members]
    outside = [one for one in members if one.split != TRAIN]
    return [shown(one.path) for one in (outside if len(outside) < len(members) else outside[1:])]


def _spare(pictures: Sequence[Sample], group: NearGroup) -> list[str]:
    """All but the largest file, which has most likely lost least."""
    members = sorted((pictures[i] for i in group.members), key=lambda one: (-one.size, one.path))
    return [shown(one.path) for one in members[1:]]


def _near(
    kind: str,
    severity: Severity,
    message: str,
    pictures: Sequence[Sample],
    groups: Sequence[NearGroup],
    remove: Sequence[str] = (),
) -> Finding:
    items = [
        {"paths": [shown(pictures[i].path) for i in group.members[:MAX_PATHS]], "pictures": len(group.members)}
        for group in groups[:MAX_PATHS]
    ]
    return finding(
        kind,
        severity,
        message,
        [pictures[i].path for group in groups[:MAX_PATHS] for i in group.members],
        count=len(groups),
        items=items,
        suggest={"edit": {"remove": list(remove[:MAX_PATHS])}} if remove else None,
    )


def doubtful(labels: Ints, judged: Judged) -> list[int]:
    """Positions of pictures that look confidently like another class than their label, most doubtful first."""
    enough = np.bincount(labels, minlength=int(judged.best.max(initial=0)) + 1) >= TINY_CLASS
    doubted = judged.seen & (judged.best >= 0) & (judged.best != labels) & (judged.given < UNLIKELY)
    doubted &= enough[labels] & enough[judged.best]
    return [int(i) for i in np.argsort(judged.given - judged.probability, kind="stable") if doubted[i]]


def label_errors(pictures: Sequence[Sample], labels: Ints, names: Sequence[str], judged: Judged) -> Iterator[Finding]:
    """What `doubtful` finds, with the class each picture looks like."""
    order = doubtful(labels, judged)
    if not order:
        return
    items = [
        {
            "path": shown(pictures[i].path),
            "label": pictures[i].label,
            "suggested": names[judged.best[i]],
            "probability": round(float(judged.probability[i]), 4),
        }
        for i in order[:MAX_PATHS]
    ]
    yield finding(
        "likely-label-error",
        "warning",
        f"{plural(len(order), 'picture looks', 'pictures look')} like another class than their label says, to a model "
        "that was fitted without them; look at them, most doubtful first, and relabel or remove those that are wrong",
        [pictures[i].path for i in order],
        count=len(order),
        items=items,
        suggest={"edit": {"relabel": {item["path"]: item["suggested"] for item in items}}},
    )


def strangers(judged: Judged) -> list[int]:
    """Positions of pictures that look like none of the classes, farthest first."""
    away = judged.distance[judged.seen]
    if len(away) < MIN_PICTURES:
        return []
    median, tail = np.quantile(away, [0.5, 0.9])
    far = judged.seen & (judged.distance > median + FAR * (tail - median)) & (tail > median)
    return [int(i) for i in np.argsort(-judged.distance, kind="stable") if far[i]]


def outliers(pictures: Sequence[Sample], judged: Judged) -> Iterator[Finding]:
    """What `strangers` finds, with how far away each picture is."""
    order = strangers(judged)
    if not order:
        return
    median = float(np.median(judged.distance[judged.seen]))
    yield finding(
        "outlier",
        "info",
        f"{plural(len(order), 'picture looks', 'pictures look')} like none of the classes; look at them, farthest "
        "first, and remove what does not belong",
        [pictures[i].path for i in order],
        count=len(order),
        items=[
            {
                "path": shown(pictures[i].path),
                "label": pictures[i].label,
                "times_the_median": round(float(judged.distance[i]) / median, 2),
            }
            for i in order[:MAX_PATHS]
        ],
    )
