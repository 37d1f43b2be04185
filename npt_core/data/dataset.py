"""A data set: labelled pictures with a content id, whatever they came in."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from PIL import Image

from npt_core.data import manifest as manifests
from npt_core.data.archive import SafeArchive
from npt_core.data.checks import Limits
from npt_core.data.faults import FaultLog
from npt_core.data.images import decode_image
from npt_core.data.ingest import (
    ProgressCallback,
    Sample,
    Stoppable,
    inspect_files,
    keep_learnable,
    refusing_hostile,
)
from npt_core.data.labels import ClassInfo
from npt_core.data.layout import TRAIN, read_layout
from npt_core.data.names import shown
from npt_core.data.reading import Reader
from npt_core.data.sources import FolderSource, Source
from npt_core.errors import ArchiveError, DatasetError, Fault, ImageError

__all__ = ["Dataset", "Sample"]


class Dataset:
    """Labelled pictures, their classes and splits. Reads are safe from several threads.

    Build one with `open`, `from_archive`, `from_folder` or `from_manifest`. Nothing is changed after that;
    `without` gives a new one.

    Attributes:
        samples: Sorted by split, label and content.
        prompts: Label -> the words for it, sorted by label.
        kind: `metadata`, `labels` or `folders`: what gave the labels.
        skipped: Litter passed over, by kind.
        notes: What a person should know and that concerns no single file.
        reader: Where the pictures are.
    """

    def __init__(
        self,
        samples: Sequence[Sample],
        prompts: Mapping[str, ClassInfo],
        *,
        kind: str,
        skipped: Mapping[str, int],
        notes: Sequence[str],
        faults: FaultLog,
        reader: Reader,
    ) -> None:
        self.samples = tuple(samples)
        self.prompts = dict(prompts)
        self.kind = kind
        self.skipped = dict(skipped)
        self.notes = tuple(notes)
        self._faults = faults
        self.reader = reader

    @classmethod
    def open(cls, path: Path | str) -> Self:
        """The data set of a folder or of a zip, whichever is there.

        Raises:
            DatasetError: Nothing is there, or nothing can be learned from it.
            ArchiveError: A zip that is hostile or unreadable.
        """
        path = Path(path).expanduser()
        if path.is_dir():
            return cls.from_folder(path)
        if not path.is_file():
            raise DatasetError(
                f"There is no folder and no zip {str(path)!r}; give a folder with one folder of images for each class, "
                "or a zip of one."
            )
        return cls.from_archive(path)

    @classmethod
    def from_archive(
        cls,
        path: Path | str,
        *,
        limits: Limits | None = None,
        on_progress: ProgressCallback | None = None,
        control: Stoppable | None = None,
    ) -> Self:
        """Judge a zip: its structure, every file's hash, every picture's header. Pixels are decoded later.

        One file is in memory at a time, whatever the number of files.

        Args:
            path: The zip; it must stay there as long as pictures are read.
            limits: What the archive may cost.
            on_progress: Called with (files done, files in all).
            control: Its `check()` is called every few files and may raise to stop.

        Raises:
            ArchiveError: Hostile or unreadable; the faults list everything wrong, bad pictures included.
            ArchiveTooLargeError: Over a limit.
            DatasetError: Fewer than two classes can be learned, or a table cannot be used; the faults say why.
        """
        archive = SafeArchive.survey(path, limits)
        try:
            return cls._from_source(archive, Reader([archive]), on_progress, control)
        except BaseException:
            archive.close()
            raise

    @classmethod
    def from_folder(
        cls, path: Path | str, *, on_progress: ProgressCallback | None = None, control: Stoppable | None = None
    ) -> Self:
        """The same for a folder on this machine, in any layout a zip may have.

        Raises:
            DatasetError: As `from_archive`, or no such folder.
        """
        source = FolderSource(path)
        return cls._from_source(source, Reader([source]), on_progress, control)

    @classmethod
    def _from_source(
        cls, source: Source, reader: Reader, on_progress: ProgressCallback | None, control: Stoppable | None
    ) -> Self:
        faults = FaultLog()
        with refusing_hostile(source, faults):
            layout = read_layout(source)
            faults.merge(layout.faults)
            samples = inspect_files(source, layout.samples, faults, on_progress=on_progress, control=control)
            if isinstance(source, FolderSource):
                faults.merge(source.faults)
            kept, prompts = keep_learnable(samples, layout.classes.values(), faults)
        return cls(
            kept,
            prompts,
            kind=layout.kind,
            skipped=layout.skipped,
            notes=layout.notes,
            faults=faults,
            reader=reader,
        )

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any], *archives: Path | str) -> Self:
        """Take up a data set again from what `to_manifest` gave and the zips (or the folder) it was made from.

        Archives are opened at the first read and not judged again; reads check the CRC, nothing more.

        Args:
            manifest: Of `to_manifest`.
            archives: Where the pictures are: one path, or as many as a data set that has grown needs, in their order.

        Raises:
            DatasetError: The manifest is damaged, of an unknown version, or needs another number of archives.
        """
        parts = manifests.parse(manifest)
        if any(not 0 <= sample.archive < len(archives) for sample in parts.samples):
            raise DatasetError(f"The data set's manifest is damaged: it speaks of more than {len(archives)} archives.")
        dataset = cls(
            parts.samples,
            parts.prompts,
            kind=parts.kind,
            skipped=parts.skipped,
            notes=parts.notes,
            faults=parts.faults,
            reader=Reader(archives),
        )
        if dataset.id != manifest.get("id"):
            raise DatasetError("The data set's manifest is damaged: its samples do not have the id it says.")
        return dataset

    def to_manifest(self) -> dict[str, Any]:
        """Everything but the pictures, ready for JSON; `from_manifest` is the way back."""
        return manifests.build(self.id, self.samples, self.prompts, self.kind, self.skipped, self.notes, self._faults)

    @cached_property
    def id(self) -> str:
        """SHA-256 (hex) of the sorted (split, label, image SHA-256) triples: same pictures, same id."""
        triples = sorted(f"{s.split}\0{s.label}\0{s.sha256}\n" for s in self.samples)  # no label holds a NUL
        digest = hashlib.sha256()
        for triple in triples:
            digest.update(triple.encode())
        return digest.hexdigest()

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes, sorted; a class's place here is its number."""
        return tuple(self.prompts)

    @cached_property
    def splits(self) -> dict[str, tuple[Sample, ...]]:
        """Split -> its samples, in the order train, val, test; splits without a sample are not there."""
        found: dict[str, list[Sample]] = {TRAIN: [], "val": [], "test": []}
        for sample in self.samples:
            found[sample.split].append(sample)
        return {split: tuple(samples) for split, samples in found.items() if samples}

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Split -> label -> number of pictures."""
        return {split: _counts(samples, self.prompts) for split, samples in self.splits.items()}

    @property
    def imbalance(self) -> float:
        """Training pictures of the largest class over those of the smallest; 1.0 is balanced."""
        train = self.counts[TRAIN].values()
        return max(train) / min(train)

    @property
    def faults(self) -> tuple[Fault, ...]:
        """Files, lines and classes left out, with the reason; past a hundred they are counted in a last one."""
        return self._faults.faults()

    @property
    def left_out(self) -> int:
        """How many files, lines and classes were left out in all."""
        return self._faults.total

    @property
    def warnings(self) -> tuple[str, ...]:
        """Notes and faults as lines of text, for the warnings of a job."""
        return (*self.notes, *(f"{fault.path}: {fault.message}" for fault in self.faults))

    def __len__(self) -> int:
        return len(self.samples)

    def __repr__(self) -> str:
        return f"Dataset({self.id[:12]}, {len(self.samples)} images, {len(self.prompts)} classes)"

    def read(self, sample: Sample) -> bytes:
        """The bytes of one picture.

        Raises:
            ImageError: They are damaged in the archive.
        """
        try:
            return self.reader.read(sample)
        except ArchiveError as error:
            raise ImageError(error.message, error.faults) from error

    def open_image(self, sample: Sample, *, target: int | None = None) -> Image.Image:
        """Decode one picture to RGB; see `images.decode_image`.

        Raises:
            ImageError: Damaged, truncated or too large; the message names the file.
        """
        data = self.read(sample)
        try:
            return decode_image(data, target=target)
        except ImageError as error:
            path = shown(sample.path)
            raise ImageError(f"{path}: {error.message}", [Fault(path, error.message)]) from error

    def without(self, bad: Iterable[str | Fault]) -> Dataset:
        """The data set that is left when some pictures turned out unreadable.

        Args:
            bad: Their paths, or faults whose `path` is one; a fault's message is kept as the reason.

        Raises:
            DatasetError: Fewer than two classes have a training picture left.
        """
        reasons = {
            item.path if isinstance(item, Fault) else item: item.message if isinstance(item, Fault) else ""
            for item in bad
        }
        faults = FaultLog()
        faults.merge(self._faults)
        kept = []
        for sample in self.samples:
            reason = reasons.get(sample.path, reasons.get(shown(sample.path)))
            if reason is None:
                kept.append(sample)
            else:
                faults.add(shown(sample.path), reason or "the picture cannot be decoded")
        samples, prompts = keep_learnable(kept, self.prompts.values(), faults)
        return Dataset(
            samples,
            prompts,
            kind=self.kind,
            skipped=self.skipped,
            notes=self.notes,
            faults=faults,
            reader=self.reader,
        )

    def describe(self) -> dict[str, Any]:
        """A summary ready for JSON: classes with their words and counts, splits, what was left out."""
        return {
            "id": self.id,
            "layout": self.kind,
            "images": len(self.samples),
            "bytes": sum(sample.size for sample in self.samples),
            "classes": [
                {
                    "label": info.label,
                    "name": info.name,
                    "prompts": list(info.phrasings),
                    "counts": {split: counts[info.label] for split, counts in self.counts.items()},
                }
                for info in self.prompts.values()
            ],
            "splits": {split: len(samples) for split, samples in self.splits.items()},
            "imbalance": self.imbalance,
            "skipped": dict(self.skipped),
            "left_out": self.left_out,
            "warnings": list(self.warnings),
        }

    def close(self) -> None:
        """Close the archive; it is opened again should another picture be read from a manifest's data set."""
        self.reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _counts(samples: Iterable[Sample], labels: Iterable[str]) -> dict[str, int]:
    found = Counter(sample.label for sample in samples)
    return {label: found[label] for label in labels}
