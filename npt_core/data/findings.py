"""What an audit reports: one finding for each kind of thing found, with names, a count and what to do about it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any, Literal

from npt_core.data.names import shown

Severity = Literal["info", "warning"]

MAX_PATHS = 20
"""How many paths, and how many items, a finding lists; `count` has the full number."""


@dataclass(frozen=True)
class Finding:
    """One kind of thing found.

    Args:
        kind: A stable word for programs, such as `duplicate-across-splits`.
        severity: `warning` when results may suffer, `info` otherwise.
        message: What was found, why it matters, what to do.
        paths: Files or classes it concerns, at most `MAX_PATHS`.
        count: How many things were found in all, listed or not.
        items: The same in detail, where there is more to say than a name; at most `MAX_PATHS`.
        suggest: What a program may do about it: `config`, settings for the next tuning, or `edit`, a change of the
            data set. None where a person must look first.
    """

    kind: str
    severity: Severity
    message: str
    paths: tuple[str, ...] = ()
    count: int = 1
    items: tuple[Mapping[str, Any], ...] = ()
    suggest: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {**asdict(self), "paths": list(self.paths), "items": [dict(item) for item in self.items]}


def finding(
    kind: str,
    severity: Severity,
    message: str,
    paths: Iterable[str] = (),
    *,
    count: int = 1,
    items: Sequence[Mapping[str, Any]] = (),
    suggest: Mapping[str, Any] | None = None,
) -> Finding:
    """A finding with its lists cut to what is shown."""
    kept = tuple(shown(path) for path in islice(paths, MAX_PATHS))
    return Finding(kind, severity, message, kept, count, tuple(items[:MAX_PATHS]), suggest)


def by_severity(findings: Iterable[Finding]) -> list[Finding]:
    """Warnings first, otherwise in the order given."""
    return sorted(findings, key=lambda one: one.severity == "info")
