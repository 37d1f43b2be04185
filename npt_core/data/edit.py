"""Changes of a data set: pictures added, removed or given another label. The archives stay as they are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from npt_core.data.archive import SafeArchive
from npt_core.data.checks import Limits
from npt_core.data.dataset import Dataset
from npt_core.data.faults import FaultLog, plural, with_rest
from npt_core.data.ingest import Sample, Stoppable, inspect_files, keep_learnable, refusing_hostile
from npt_core.data.labels import ClassInfo
from npt_core.data.layout import read_layout
from npt_core.data.names import collision_key, label_fault, nfc, shown
from npt_core.data.reading import Reader
from npt_core.errors import ArchiveTooLargeError, DataError, DatasetError, Fault

SHA256_DIGITS = 64
MAX_FAULTS = 100
_NOT_THERE = "is no picture of the data set; give its path as the data set lists it, or the SHA-256 of its file"


class EditError(DataError):
    """A change that cannot be made: it names pictures that are not there, or contradicts itself."""

    code: ClassVar[str] = "invalid-edit"


@dataclass(frozen=True)
class Edit:
    """What to change. A picture is named by its path, or by the SHA-256 of its file, which means every copy of it.

    Args:
        remove: Pictures to leave out.
        relabel: Picture -> its new label, which may be a new class.
    """

    remove: tuple[str, ...] = ()
    relabel: Mapping[str, str] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.remove or self.relabel)


@dataclass(frozen=True)
class Change:
    """What an edit came to, picture by picture.

    Attributes:
        removed: `path`, `label`, `split` and `sha256` of each.
        relabelled: The same, `label` being the new one and `was` the old one.
        added: The same.
        known: Pictures of the additions that were there already, with the same label in the same split.
    """

    removed: tuple[dict[str, str], ...] = ()
    relabelled: tuple[dict[str, str], ...] = ()
    added: tuple[dict[str, str], ...] = ()
    known: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures each part concerns."""
        return {
            "removed": len(self.removed),
            "relabelled": len(self.relabelled),
            "added": len(self.added),
            "known": self.known,
        }

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "removed": list(self.removed),
            "relabelled": list(self.relabelled),
            "added": list(self.added),
            "known": self.known,
        }


class Additions:
    """Pictures to add, judged like any archive; one class, or a test part alone, is enough here.

    Attributes:
        samples: The pictures.
        words: Label -> what `classes.json` calls it, for the labels it names.
        faults: What was left out.
        skipped: Litter passed over, by kind.
        notes: What concerns no single file.
    """

    def __init__(self, archive: SafeArchive, control: Stoppable | None) -> None:
        self.archive, self.faults = archive, FaultLog()
        with refusing_hostile(archive, self.faults):
            layout = read_layout(archive)
            self.faults.merge(layout.faults)
            self.samples = inspect_files(archive, layout.samples, self.faults, control=control)
            if not self.samples:
                raise DatasetError("There is no readable picture with a label to add.", self.faults.faults())
        self.words = {label: info for label, info in layout.classes.items() if info != ClassInfo.from_label(info.label)}
        self.skipped, self.notes = dict(layout.skipped), tuple(layout.notes)

    @classmethod
    def from_archive(cls, path: Path | str, *, limits: Limits | None = None, control: Stoppable | None = None) -> Self:
        """Judge a zip of pictures to add, in any layout a data set may have.

        Raises:
            ArchiveError: Hostile or unreadable; the faults list everything wrong.
            ArchiveTooLargeError: Over a limit.
            DatasetError: No picture in it can be used.
        """
        archive = SafeArchive.survey(path, limits)
        try:
            return cls(archive, control)
        except BaseException:
            archive.close()
            raise

    def close(self) -> None:
        """Close the archive."""
        self.archive.close()


@dataclass(frozen=True)
class Edited:
    """What `edit_dataset` returns.

    Attributes:
        dataset: The new data set; it reads from the old archives and, after them, from that of the additions.
        archives: Which archives it needs, in its own numbering: positions among the parent's, and their number for
            that of the additions.
        change: What was done.
    """

    dataset: Dataset
    archives: tuple[int, ...]
    change: Change


def edit_dataset(
    parent: Dataset, edit: Edit, additions: Additions | None = None, *, limits: Limits | None = None
) -> Edited:
    """Make a new data set from an old one; the old one stays.

    Args:
        parent: What to start from.
        edit: What to remove and to relabel.
        additions: What to add, after that.
        limits: What a data set may be in all.

    Raises:
        EditError: Nothing to do, or pictures that are not there, or a contradiction; every fault is listed.
        DatasetError: Fewer than two classes would have a training picture.
        ArchiveTooLargeError: Too many pictures, or bytes, in all.
    """
    if not edit and additions is None:
        raise EditError("The edit is empty: give pictures to remove, to relabel, or to add.")
    removed, relabelled = _resolve(parent, edit)
    kept = [
        replace(sample, label=relabelled.get(position, sample.label))
        for position, sample in enumerate(parent.samples)
        if position not in removed
    ]
    fresh, known = _fresh(kept, additions, len(parent.reader.archives))
    _refuse_large([*kept, *fresh], limits or Limits())
    faults = FaultLog()
    if additions is not None:
        faults.merge(additions.faults)
    words = dict(parent.prompts) | (additions.words if additions else {})
    present = {sample.label for sample in (*kept, *fresh)}  # a class that lost every picture was meant to go
    classes = [words.get(label) or ClassInfo.from_label(label) for label in sorted(present)]
    samples, prompts = keep_learnable([*kept, *fresh], classes, faults)
    numbers = sorted({sample.archive for sample in samples})
    place = {number: position for position, number in enumerate(numbers)}
    archives = [*parent.reader.archives, *([additions.archive] if additions else [])]
    dataset = Dataset(
        [replace(sample, archive=place[sample.archive]) for sample in samples],
        prompts,
        kind=parent.kind,
        skipped=additions.skipped if additions else {},
        notes=additions.notes if additions else (),
        faults=faults,
        reader=Reader(archives).only(numbers),
    )
    change = Change(
        removed=tuple(_told(parent.samples[position]) for position in sorted(removed)),
        relabelled=tuple(
            {**_told(parent.samples[position]), "label": label, "was": parent.samples[position].label}
            for position, label in sorted(relabelled.items())
        ),
        added=tuple(map(_told, fresh)),
        known=known,
    )
    return Edited(dataset, tuple(numbers), change)


def _told(sample: Sample) -> dict[str, str]:
    return {"path": shown(sample.path), "label": sample.label, "split": sample.split, "sha256": sample.sha256}


def _resolve(parent: Dataset, edit: Edit) -> tuple[set[int], dict[int, str]]:
    """The positions an edit speaks of: those to remove, and those with a new label."""
    find = _finder(parent.samples)
    faults: list[Fault] = []
    removed: set[int] = set()
    relabelled: dict[int, str] = {}
    for name in edit.remove:
        found = find(name)
        if not found:
            faults.append(Fault(shown(name), _NOT_THERE))
        removed.update(found)
    for name, new in edit.relabel.items():
        label, found = nfc(new), find(name)
        if fault := label_fault(label):
            faults.append(Fault(shown(name), f"the new label {fault}"))
        if not found:
            faults.append(Fault(shown(name), _NOT_THERE))
        for position in found:
            if position in removed:
                faults.append(Fault(shown(name), "is to be removed and relabelled; one of the two is possible"))
            elif relabelled.setdefault(position, label) != label:
                faults.append(
                    Fault(shown(name), f"has two new labels, {shown(relabelled[position])} and {shown(label)}")
                )
    if faults:
        raise EditError(
            f"The edit cannot be made: {plural(len(faults), 'problem')} in it. Nothing was changed.",
            with_rest(faults[:MAX_FAULTS], len(faults)),
        )
    same = {position for position, label in relabelled.items() if parent.samples[position].label == label}
    return removed, {position: label for position, label in relabelled.items() if position not in same}


def _finder(samples: Sequence[Sample]) -> Callable[[str], list[int]]:
    """From a path, a path as it is shown, or a hash, to positions."""
    index: dict[str, list[int]] = {}
    for position, sample in enumerate(samples):
        for name in {sample.path, shown(sample.path), sample.sha256}:
            index.setdefault(name, []).append(position)
    return lambda name: index.get(name) or index.get(name.lower() if len(name) == SHA256_DIGITS else nfc(name)) or []


def _fresh(kept: Iterable[Sample], additions: Additions | None, archive: int) -> tuple[list[Sample], int]:
    """The additions that are not there yet, with paths of their own, and how many were there."""
    if additions is None:
        return [], 0
    kept = list(kept)
    there = {(sample.split, sample.label, sample.sha256) for sample in kept}
    taken = {collision_key(sample.path) for sample in kept}
    fresh = []
    for sample in additions.samples:
        if (sample.split, sample.label, sample.sha256) in there:
            continue
        path = next(name for name in _names(sample.path) if collision_key(name) not in taken)
        taken.add(collision_key(path))
        fresh.append(replace(sample, path=path, archive=archive, entry="" if path == sample.path else sample.path))
    return fresh, len(additions.samples) - len(fresh)


def _names(path: str) -> Iterator[str]:
    """`cat/1.png`, `cat/1~2.png`, `cat/1~3.png`, ...: cameras number every card from one."""
    yield path
    folder, slash, name = path.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    if not stem:
        stem, dot, ending = name, "", ""
    number = 2
    while True:
        yield f"{folder}{slash}{stem}~{number}{dot}{ending}"
        number += 1


def _refuse_large(samples: Sequence[Sample], limits: Limits) -> None:
    if len(samples) > limits.entries:
        raise ArchiveTooLargeError(
            f"The data set would have {len(samples):,} pictures; {limits.entries:,} are accepted. Remove some."
        )
    total = sum(sample.size for sample in samples)
    if total > limits.total_bytes:
        raise ArchiveTooLargeError(
            f"The data set would have {total:,} bytes of pictures; {limits.total_bytes:,} are accepted. Remove some."
        )
