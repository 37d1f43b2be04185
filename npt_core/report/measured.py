"""What a report measured, read once and checked, for all sections."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from npt_core.report.facts import at, count, interval, known, mapping, number, objects, share, text

MAX_CLASSES = 2_000
"""So many classes of a report are looked at."""


@dataclass(frozen=True)
class ClassScore:
    """What one classifier does for one class; numbers from 0 to 1, None where undefined."""

    label: str
    precision: float | None
    recall: float | None
    f1: float | None
    support: int | None


@dataclass(frozen=True)
class Pair:
    """Images of one class that were taken for another."""

    label: str
    predicted: str
    count: int


class Scores:
    """One classifier's part of `metrics`.

    Args:
        data: The report's; anything.
    """

    def __init__(self, data: Any) -> None:
        self.data = mapping(data)
        self.accuracy = share(self.data, "accuracy")
        self.interval = interval(self.data, "accuracy_interval")
        self.count = count(self.data, "count")
        self.error, self.nll = share(self.data, "calibration_error"), number(self.data, "nll")
        self.macro = {name: share(self.data, "macro", name) for name in ("precision", "recall", "f1")}

    @property
    def known(self) -> bool:
        """Whether there is anything to show."""
        return self.accuracy is not None

    @cached_property
    def classes(self) -> list[ClassScore]:
        """In the order of the report."""
        return [
            ClassScore(
                text(one, "label"),
                share(one, "precision"),
                share(one, "recall"),
                share(one, "f1"),
                count(one, "support"),
            )
            for one in objects(self.data, "per_class")[:MAX_CLASSES]
        ]

    @cached_property
    def pairs(self) -> list[Pair]:
        """Most confused first."""
        found = [
            Pair(text(one, "label"), text(one, "predicted"), count(one, "count") or 0)
            for one in objects(self.data, "most_confused")[:50]
        ]
        return [one for one in found if one.count]

    @cached_property
    def confusion(self) -> list[list[int | None]] | None:
        """Rows are the truth; None where the report has none that fits its classes."""
        rows = at(self.data, "confusion")
        size = len(self.classes)
        if not isinstance(rows, list) or not 0 < size == len(rows) <= 1000:
            return None
        if not all(isinstance(row, list) and len(row) == size for row in rows):
            return None
        return [[count(value) for value in row] for row in rows]


@dataclass(frozen=True)
class Subject:
    """The model a page is about.

    Attributes:
        id: Its id, if the store gave it one.
        name: What it is called.
        version: Within the name.
        manifest: Of its artefact; an imported one's is a stranger's, too.
    """

    id: str | None = None
    name: str | None = None
    version: int | None = None
    manifest: Mapping[str, Any] | None = None


class Measured:
    """A report and what it is about, as the sections read it.

    Args:
        report: Of anybody.
        subject: The model.
        base_url: Of the service, for commands.
    """

    def __init__(self, report: Mapping[str, Any], subject: Subject, base_url: str) -> None:
        self.report, self.subject, self.base_url = report, subject, base_url
        self.manifest = mapping(subject.manifest)
        self.zero_shot = Scores(at(report, "metrics", "zero_shot"))
        self.tuned = Scores(at(report, "metrics", "tuned"))
        self.method = text(report, "config", "method") if known(report, "config", "method") else self._own_method

    @property
    def _own_method(self) -> str:
        return text(self.manifest, "method")

    @property
    def learned(self) -> bool:
        """Whether there is anything to compare with zero-shot."""
        return self.method != "zero_shot"

    @cached_property
    def train_counts(self) -> dict[str, int]:
        """Label -> images that the shipped classifier learned from."""
        found = {}
        for one in objects(self.report, "dataset", "classes")[:MAX_CLASSES]:
            images = count(one, "count")
            if images is not None:
                found[text(one, "label")] = images
        return found

    def findings(self, *kinds: str) -> list[Mapping[str, Any]]:
        """Return the audit's findings, of some kinds or all."""
        return [
            one for one in objects(self.report, "audit", "findings")[:200] if not kinds or text(one, "kind") in kinds
        ]
