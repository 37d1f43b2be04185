"""What a person should know about a data set before tuning on it, from its structure alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from npt_core.data.dataset import Dataset
from npt_core.data.faults import plural
from npt_core.data.findings import Finding, by_severity, finding
from npt_core.data.ingest import Sample
from npt_core.data.layout import TRAIN
from npt_core.data.names import collision_key, shown

TINY_CLASS = 4
"""Classes with fewer training pictures are pointed out."""

IMBALANCE = 3.0
"""The largest class over the smallest, from which on it is pointed out."""

BALANCING = {"logit_adjustment": 1.0}
"""The setting for uneven classes, see `TuneConfig`."""


def audit_structure(dataset: Dataset) -> list[Finding]:
    """Look at names, counts and hashes; no picture is decoded.

    Returns:
        Findings, warnings first, in a fixed order.
    """
    return by_severity(
        [
            *_left_out(dataset),
            *_duplicates(dataset.samples),
            *_same_words(dataset),
            *_sizes(dataset),
            *_splits(dataset),
            *(Finding("note", "info", note) for note in dataset.notes),
            *_skipped(dataset),
        ]
    )


def _left_out(dataset: Dataset) -> Iterator[Finding]:
    if dataset.left_out:
        yield finding(
            "left-out",
            "warning",
            f"{plural(dataset.left_out, 'file or class', 'files, lines or classes')} left out; `left_out` says why: "
            "correct them and add them again",
            [fault.path for fault in dataset.faults],
            count=dataset.left_out,
        )


def _duplicates(samples: Sequence[Sample]) -> Iterator[Finding]:
    by_hash: dict[str, list[Sample]] = {}
    for sample in samples:
        by_hash.setdefault(sample.sha256, []).append(sample)
    repeated = [same for same in by_hash.values() if len(same) > 1]
    across_classes = [same for same in repeated if len({s.label for s in same}) > 1]
    across_splits = [same for same in repeated if len({s.split for s in same}) > 1]
    within = [same for same in repeated if len({(s.label, s.split) for s in same}) < len(same)]
    if across_classes:
        yield finding(
            "duplicate-across-classes",
            "warning",
            f"{plural(len(across_classes), 'picture is', 'pictures are')} in more than one class, byte for byte; "
            "only one of the labels can be right: remove the wrong copies",
            _paths(across_classes),
            count=len(across_classes),
        )
    if across_splits:
        yield finding(
            "duplicate-across-splits",
            "warning",
            f"{plural(len(across_splits), 'picture is', 'pictures are')} in more than one split, byte for byte; the "
            "measured accuracy will be too good: remove the copies from the test or validation part",
            _paths(across_splits),
            count=len(across_splits),
        )
    if within:
        yield finding(
            "duplicate-in-class",
            "info",
            f"{plural(len(within), 'picture occurs', 'pictures occur')} more than once in a class, byte for byte; "
            "copies weigh more and are kept on one side when a part is held out",
            _paths(within),
            count=len(within),
        )


def _same_words(dataset: Dataset) -> Iterator[Finding]:
    by_words: dict[str, list[str]] = {}
    for info in dataset.prompts.values():
        for phrasing in info.phrasings:
            labels = by_words.setdefault(" ".join(collision_key(phrasing).split()), [])
            if info.label not in labels:
                labels.append(info.label)
    for words, labels in sorted(by_words.items()):
        if len(labels) > 1:
            yield finding(
                "same-prompt-name",
                "warning",
                f"{plural(len(labels), 'class', 'classes')} are called '{shown(words)}' in the prompt, so no text can "
                "tell them apart: give them other names in classes.json or in class_names",
                labels,
                count=len(labels),
            )


def _sizes(dataset: Dataset) -> Iterator[Finding]:
    train = dataset.counts[TRAIN]
    tiny = [label for label, count in train.items() if count < TINY_CLASS]
    if tiny:
        yield finding(
            "tiny-class",
            "info",
            f"{plural(len(tiny), 'class has', 'classes have')} fewer than {TINY_CLASS} training pictures; add some, "
            "or read the result with care",
            tiny,
            count=len(tiny),
        )
    if dataset.imbalance >= IMBALANCE:
        smallest, largest = min(train, key=lambda k: train[k]), max(train, key=lambda k: train[k])
        tau = train[smallest] / train[largest]
        yield finding(
            "imbalance",
            "info",
            f"the largest class ({shown(largest)}, {train[largest]:,}) has {dataset.imbalance:.1f} times the training "
            f"pictures of the smallest ({shown(smallest)}, {train[smallest]:,}; tau {tau:.2g}); small classes may be "
            "recognised less: add pictures of them, or tune with logit_adjustment 1, and read the figures by class",
            [largest, smallest],
            items=[{"ratio": round(dataset.imbalance, 4), "tau": round(tau, 6)}],
            suggest={"config": BALANCING},
        )


def _splits(dataset: Dataset) -> Iterator[Finding]:
    for split, counts in dataset.counts.items():
        missing = [label for label, count in counts.items() if count == 0]
        if missing:
            yield finding(
                "class-not-in-split",
                "warning",
                f"{plural(len(missing), 'class has', 'classes have')} no picture in the split {split}; nothing is "
                "measured for them there: add some",
                missing,
                count=len(missing),
            )


def _skipped(dataset: Dataset) -> Iterator[Finding]:
    if dataset.skipped:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in sorted(dataset.skipped.items()))
        yield finding(
            "skipped",
            "info",
            f"passed over, as desktops leave them behind: {kinds}",
            count=sum(dataset.skipped.values()),
        )


def _paths(groups: Sequence[Sequence[Sample]]) -> Iterator[str]:
    return (sample.path for group in groups for sample in group)
