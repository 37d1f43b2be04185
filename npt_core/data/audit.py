"""What a person should know about a data set before tuning on it, from its structure alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from npt_core.data.dataset import Dataset
from npt_core.data.faults import plural
from npt_core.data.ingest import Sample
from npt_core.data.layout import TRAIN
from npt_core.data.names import collision_key, shown

Severity = Literal["info", "warning"]

MAX_PATHS = 20
"""How many paths a finding names; its message has the full count."""

TINY_CLASS = 4
"""Classes with fewer training pictures are pointed out."""

IMBALANCE = 3.0
"""The largest class over the smallest, from which on it is pointed out."""


@dataclass(frozen=True)
class Finding:
    """One thing found.

    Args:
        kind: A stable word for programs, such as `duplicate-across-splits`.
        severity: `warning` when results may suffer, `info` otherwise.
        message: One sentence: what was found, why it matters, what to do.
        paths: Files or classes it concerns, at most `MAX_PATHS`.
    """

    kind: str
    severity: Severity
    message: str
    paths: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "paths": list(self.paths)}


def audit_structure(dataset: Dataset) -> list[Finding]:
    """Look at names, counts and hashes; no picture is decoded.

    Returns:
        Findings, warnings first, in a fixed order.
    """
    findings = [
        *_left_out(dataset),
        *_duplicates(dataset.samples),
        *_same_words(dataset),
        *_sizes(dataset),
        *_splits(dataset),
        *(Finding("note", "info", note) for note in dataset.notes),
        *_skipped(dataset),
    ]
    return sorted(findings, key=lambda finding: finding.severity == "info")


def _left_out(dataset: Dataset) -> Iterator[Finding]:
    if dataset.left_out:
        paths = [fault.path for fault in dataset.faults]
        yield _finding(
            "left-out",
            "warning",
            f"{plural(dataset.left_out, 'file or class', 'files, lines or classes')} left out",
            paths,
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
        yield _finding(
            "duplicate-across-classes",
            "warning",
            f"{plural(len(across_classes), 'picture is', 'pictures are')} in more than one class, byte for byte; "
            "only one of the labels can be right: remove the wrong copies",
            _paths(across_classes),
        )
    if across_splits:
        yield _finding(
            "duplicate-across-splits",
            "warning",
            f"{plural(len(across_splits), 'picture is', 'pictures are')} in more than one split, byte for byte; the "
            "measured accuracy will be too good: remove the copies from the test or validation part",
            _paths(across_splits),
        )
    if within:
        yield _finding(
            "duplicate-in-class",
            "info",
            f"{plural(len(within), 'picture occurs', 'pictures occur')} more than once in a class, byte for byte; "
            "copies weigh more and are kept on one side when a part is held out",
            _paths(within),
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
            yield _finding(
                "same-prompt-name",
                "warning",
                f"{plural(len(labels), 'class', 'classes')} are called '{shown(words)}' in the prompt, so no text can "
                "tell them apart: give them other names in classes.json or in class_names",
                labels,
            )


def _sizes(dataset: Dataset) -> Iterator[Finding]:
    train = dataset.counts[TRAIN]
    tiny = [label for label, count in train.items() if count < TINY_CLASS]
    if tiny:
        yield _finding(
            "tiny-class",
            "info",
            f"{plural(len(tiny), 'class has', 'classes have')} fewer than {TINY_CLASS} training pictures; add some, "
            "or read the result with care",
            tiny,
        )
    if dataset.imbalance >= IMBALANCE:
        smallest, largest = min(train, key=lambda k: train[k]), max(train, key=lambda k: train[k])
        yield _finding(
            "imbalance",
            "info",
            f"the largest class ({shown(largest)}, {train[largest]:,}) has {dataset.imbalance:.1f} times the training "
            f"pictures of the smallest ({shown(smallest)}, {train[smallest]:,}); small classes may be recognised less",
            [largest, smallest],
        )


def _splits(dataset: Dataset) -> Iterator[Finding]:
    for split, counts in dataset.counts.items():
        missing = [label for label, count in counts.items() if count == 0]
        if missing:
            yield _finding(
                "class-not-in-split",
                "warning",
                f"{plural(len(missing), 'class has', 'classes have')} no picture in the split {split}; nothing is "
                "measured for them there",
                missing,
            )


def _skipped(dataset: Dataset) -> Iterator[Finding]:
    if dataset.skipped:
        kinds = ", ".join(f"{kind} ({count:,})" for kind, count in sorted(dataset.skipped.items()))
        yield Finding("skipped", "info", f"passed over, as desktops leave them behind: {kinds}")


def _paths(groups: Sequence[Sequence[Sample]]) -> Iterator[str]:
    return (sample.path for group in groups for sample in group)


def _finding(kind: str, severity: Severity, message: str, paths: Iterable[str]) -> Finding:
    kept = [shown(path) for path, _ in zip(paths, range(MAX_PATHS), strict=False)]
    return Finding(kind, severity, message, tuple(kept))
