"""The one pass over the files of a data set: hashes and picture headers, one file in memory at a time."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from npt_core.data.archive import DamagedEntryError, hostile_error
from npt_core.data.faults import ARCHIVE_PATH, FaultLog, plural
from npt_core.data.images import read_header
from npt_core.data.labels import ClassInfo
from npt_core.data.layout import TRAIN, SampleRef
from npt_core.data.names import shown
from npt_core.data.sources import FolderSource, Source
from npt_core.errors import ArchiveError, DatasetError, Fault, ImageError

ProgressCallback = Callable[[int, int], None]
"""Called with (files done, files in all), about a hundred times."""

_CHECK_EVERY = 32


class Stoppable(Protocol):
    """Anything that can be asked whether to go on."""

    def check(self) -> None:
        """Raise to stop the work."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One labelled picture.

    Args:
        path: Where it lies in the archive or folder.
        label: Its class.
        split: `train`, `val` or `test`.
        sha256: Hex digest of its bytes.
        size: Bytes.
        archive: Which of the data set's archives holds it; several where a data set has grown.
        entry: Its name there; empty where that is `path`.
    """

    path: str
    label: str
    split: str
    sha256: str
    size: int
    archive: int = 0
    entry: str = ""


@contextmanager
def refusing_hostile(source: Source, faults: FaultLog) -> Iterator[None]:
    """Refuse a hostile archive in the end, with everything else that was found wrong meanwhile.

    Raises:
        ArchiveError: `source.faults` is not empty. A folder on this machine is read in spite of them.
    """
    strict = not isinstance(source, FolderSource)
    try:
        yield
    except (DatasetError, ArchiveError) as error:
        if source.faults and strict:
            source.faults.extend(error.faults or [Fault(ARCHIVE_PATH, error.message)])
            raise hostile_error(source.faults) from error
        raise
    if source.faults and strict:
        source.faults.merge(faults)
        raise hostile_error(source.faults)


def sample_order(sample: Sample) -> tuple[str, str, str, str]:
    """Order by content, then name: two zips of the same pictures list them alike, whatever the files are called."""
    return sample.split, sample.label, sample.sha256, sample.path


def inspect_files(
    source: Source,
    refs: Sequence[SampleRef],
    faults: FaultLog,
    *,
    on_progress: ProgressCallback | None = None,
    control: Stoppable | None = None,
) -> list[Sample]:
    """Read every labelled file once; hash it and check that it begins like a picture of acceptable dimensions.

    Args:
        source: Where the files are. A file that unpacks to more than it declares is added to `source.faults`.
        refs: The files, in the order they are stored, so that the disk is read forward.
        faults: Takes every file that is left out.
        on_progress: Called now and then.
        control: Asked every few files whether to go on.
    """
    samples: list[Sample] = []
    step = max(1, len(refs) // 100)
    for done, ref in enumerate(refs):
        if control is not None and done % _CHECK_EVERY == 0:
            control.check()
        if on_progress is not None and done % step == 0:
            on_progress(done, len(refs))
        try:
            data = source.read(ref.path)
            read_header(data)
        except (DamagedEntryError, ImageError) as error:
            faults.add(shown(ref.path), _reason(error, ref.path))
        except ArchiveError as error:
            source.faults.extend(error.faults)
        else:
            sha256 = hashlib.sha256(data).hexdigest()
            samples.append(Sample(ref.path, ref.label, ref.split, sha256, len(data)))
    if on_progress is not None:
        on_progress(len(refs), len(refs))
    return samples


def _reason(error: DamagedEntryError | ImageError, path: str) -> str:
    return error.message.removeprefix(f"{shown(path)}: ")


def keep_learnable(
    samples: Iterable[Sample], classes: Iterable[ClassInfo], faults: FaultLog
) -> tuple[list[Sample], dict[str, ClassInfo]]:
    """Drop classes that have no training picture left, and refuse a data set of fewer than two classes.

    Returns:
        The samples in their canonical order, and the remaining classes by label, sorted.

    Raises:
        DatasetError: Fewer than two classes to learn; `faults` says what was left out and why.
    """
    kept = sorted(samples, key=sample_order)
    known = {info.label: info for info in classes}
    learnable = {sample.label for sample in kept if sample.split == TRAIN}
    others = Counter(sample.label for sample in kept if sample.label not in learnable)
    splits = {sample.split for sample in kept}
    for label in sorted(known.keys() - learnable):
        if others[label]:
            rest = plural(others[label], "picture") + " in other splits"
            faults.add(shown(label), f"the class has no readable training picture; it and its {rest} are left out")
        else:
            faults.add(shown(label), "the class has no readable picture; it is left out")
    if len(learnable) < 2:
        raise DatasetError(_unlearnable(sorted(learnable), splits), faults.faults())
    kept = [sample for sample in kept if sample.label in learnable]
    return kept, {label: known.get(label) or ClassInfo.from_label(label) for label in sorted(learnable)}


def _unlearnable(labels: list[str], splits: set[str]) -> str:
    need = "at least two classes with readable training pictures are needed"
    if labels:
        return f"Nothing can be learned: the only class with readable training pictures is {shown(labels[0])}; {need}."
    if splits:
        only = " and ".join(sorted(splits))
        return f"Nothing can be learned: all readable pictures are in the split {only}; {need}. Add a train/ folder."
    return f"Nothing can be learned: no readable picture was found; {need}."
