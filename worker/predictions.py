"""What a batch of predictions is asked for, and whether its archive can be one. Needs no torch."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from npt_core.errors import ArchiveError, DataError
from npt_core.serving.terms import Agreed, Source
from worker.records import Record

if TYPE_CHECKING:
    from npt_core.data.archive import SafeArchive
    from npt_core.data.checks import Limits

KIND = "predict"
"""The kind of job."""

ZERO_SHOT = "zero-shot"

JSONL, CSV = "jsonl", "csv"
FILES = {JSONL: "results.jsonl", CSV: "results.csv"}
"""The formats of the results and their files."""


class Stated(Record):
    """What was stated of a model's answers, by the request or by the alias it was asked for by."""

    reject_below: float = 0.0
    reject_below_from: Source = "default"
    priors: dict[str, float] | None = None
    priors_from: Literal["request", "alias"] | None = None

    @classmethod
    def of(cls, agreed: Agreed) -> Self:
        return cls.model_validate(asdict(agreed))

    def agreed(self) -> Agreed:
        return Agreed(self.reject_below, self.reject_below_from, self.priors, self.priors_from)


class BatchRequest(Record):
    """The config of a job of this kind. What aliases pointed to, and their terms, was settled when it was accepted."""

    models: tuple[str, ...]  # ids, or zero-shot
    labels: tuple[str, ...] | None = None
    terms: tuple[Stated, ...] = ()  # of each model; none: nothing was stated of any
    top_k: int = 5
    backbone: str | None = None  # of zero-shot
    files: int = 0  # in the archive

    def agreed(self) -> list[Agreed]:
        """The terms of each model, without what the models have of their own."""
        return [one.agreed() for one in self.terms] or [Agreed()] * len(self.models)


def count_files(part: Path, limits: Limits) -> int:
    """How many files of an upload will be looked at: all of them, so that each has its row.

    Raises:
        ArchiveError: Hostile or unreadable, with every fault; or no picture is in it.
        ArchiveTooLargeError: Over a limit.
    """
    from npt_core.data.archive import SafeArchive

    with SafeArchive.open(part, limits) as archive:
        if not _has_picture(archive):
            found = f"{len(archive.entries):,} files, none of which begins like one" if archive.entries else "no file"
            raise ArchiveError(
                f"There is no picture in the archive: it holds {found}. Send a zip of pictures, in any folders."
            )
        return len(archive.entries)


def _has_picture(archive: SafeArchive) -> bool:
    from npt_core.data.images import read_header

    for entry in archive.entries:
        try:
            read_header(archive.read(entry))
        except DataError:
            continue
        return True
    return False
