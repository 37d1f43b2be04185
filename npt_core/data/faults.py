"""Collects everything that is wrong, keeps the first hundred, counts the rest."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from npt_core.errors import Fault

MAX_LISTED = 100
"""How many faults are kept word for word; a hostile archive can hold a hundred thousand."""

ARCHIVE_PATH = "(archive)"
"""Where a fault of the archive as a whole is reported."""


class FaultLog:
    """An append-only list of faults that does not grow with the number of bad files.

    Args:
        cap: How many faults are kept with their path; later ones are only counted.
    """

    def __init__(self, cap: int = MAX_LISTED) -> None:
        self._cap = cap
        self._listed: list[Fault] = []
        self.total = 0

    def add(self, path: str, message: str) -> None:
        """Record one problem."""
        self.total += 1
        if len(self._listed) < self._cap:
            self._listed.append(Fault(path, message))

    def extend(self, faults: Iterable[Fault]) -> None:
        """Record several problems, in their order."""
        for fault in faults:
            self.add(fault.path, fault.message)

    def merge(self, other: FaultLog) -> None:
        """Take over another log, with what it counted beyond its cap."""
        before = self.total
        self.extend(other._listed)
        self.total = before + other.total

    def __bool__(self) -> bool:
        return bool(self._listed)

    def __iter__(self) -> Iterator[Fault]:
        return iter(self._listed)

    def faults(self) -> tuple[Fault, ...]:
        """The kept faults, closed by one that counts what was not kept."""
        return with_rest(self._listed, self.total)


def with_rest(listed: Iterable[Fault], total: int) -> tuple[Fault, ...]:
    """`listed`, and one more fault that says how many files are meant beyond those named."""
    kept = tuple(listed)
    if total <= len(kept) or len(kept) < MAX_LISTED:
        return kept
    return (*kept, Fault(ARCHIVE_PATH, f"and {total - len(kept):,} more, not listed one by one"))


def plural(n: int, thing: str, things: str | None = None) -> str:
    """`3 images`, `1 image`: a count with its noun."""
    return f"{n:,} {thing if n == 1 else things or thing + 's'}"
