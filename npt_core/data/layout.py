"""Finds out which picture has which label and split, from metadata, labels.csv or folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from npt_core.data.archive import Entry
from npt_core.data.faults import FaultLog, plural
from npt_core.data.labels import ClassInfo
from npt_core.data.names import clean_path, label_fault, nfc, shown
from npt_core.data.sniff import is_archive_name
from npt_core.data.sources import Source
from npt_core.data.tables import Row, parse_classes, parse_table, refuse
from npt_core.errors import DatasetError

LayoutKind = Literal["metadata", "labels", "folders"]

SPLIT_NAMES: Mapping[str, str] = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
TRAIN = "train"

LINES_A_FILE = 4
"""A table may have so many lines for each file that the archive may hold: captions of several lines, empty lines."""

_METADATA = ("metadata.jsonl", "metadata.csv")
_LABELS = "labels.csv"
_CLASSES = "classes.json"
ACCEPTED = "class/picture, train/class/picture with val/ or test/ beside it, metadata.jsonl, metadata.csv or labels.csv"


class SampleRef(NamedTuple):
    """A file that has a label; whether it is a picture is not known yet."""

    path: str
    label: str
    split: str
    size: int


@dataclass
class Layout:
    """What an archive says about its files.

    Args:
        kind: Which description was used.
        samples: Every file that has a label.
        classes: The words of each label that occurs; a class without any file is among them.
        splits: The splits that occur, in the order train, val, test.
        skipped: Litter passed over, by kind.
        notes: What a person should know and that concerns no single file.
        faults: Files and lines left out.
    """

    kind: LayoutKind
    samples: tuple[SampleRef, ...]
    classes: dict[str, ClassInfo]
    splits: tuple[str, ...]
    skipped: dict[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    faults: FaultLog = field(default_factory=FaultLog)


def read_layout(source: Source) -> Layout:
    """Work out labels and splits from names and tables; no picture is opened.

    Metadata goes before labels.csv, labels.csv before folders. One folder around everything is ignored.

    Raises:
        DatasetError: Nothing in it, a table that cannot be used, or no file with a label; every fault is listed.
    """
    if not source.entries:
        raise DatasetError(_empty_message(source))
    reader = _Reader(source)
    layout = reader.read()
    if not layout.samples:
        raise DatasetError(f"No file in the data set has a label. Accepted are: {ACCEPTED}.", layout.faults.faults())
    return layout


def _empty_message(source: Source) -> str:
    litter = sum(source.skipped.values())
    extra = f" ({plural(litter, 'file')} of the desktop's own, such as .DS_Store, passed over)" if litter else ""
    return f"The data set is empty: it holds no file{extra}. Put the pictures in one folder a class."


class _Reader:
    """The state of one reading: files by relative path, and what was found on the way."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.root = _wrapper(entry.path for entry in source.entries)
        self.files: dict[str, Entry] = {}
        outside: list[Entry] = []
        for entry in source.entries:
            if entry.path.startswith(self.root):
                self.files[nfc(entry.path[len(self.root) :])] = entry
            else:
                outside.append(entry)
        self.faults = FaultLog()
        self.notes: list[str] = []
        self.words = self._read_classes({entry.path: entry for entry in outside})
        for entry in outside:
            if entry.path != _CLASSES:
                self._leave_out_loose(entry)
        self.split_of = _split_folders(self.files)

    def read(self) -> Layout:
        kind: LayoutKind
        tables = self._metadata_tables()
        if tables:
            kind, file_column = "metadata", "file_name"
        elif _LABELS in self.files:
            kind, file_column, tables = "labels", "filename", [_LABELS]
        else:
            return self._finish("folders", self._from_folders())
        if kind == "metadata" and _LABELS in self.files:
            self.files.pop(_LABELS)
            self.notes.append("labels.csv was not used: metadata goes before it")
        return self._finish(kind, self._from_tables(tables, file_column))

    def _read_classes(self, outside: Mapping[str, Entry]) -> dict[str, ClassInfo]:
        entry = self.files.pop(_CLASSES, None) or outside.get(_CLASSES)
        return {} if entry is None else parse_classes(self._table_bytes(entry), entry.path)

    def _table_bytes(self, entry: Entry) -> bytes:
        limit = self.source.limits.table_bytes
        if entry.size > limit:
            raise refuse(entry.path, f"has {entry.size:,} bytes; {limit:,} are accepted")
        return self.source.read(entry)

    def _metadata_tables(self) -> list[str]:
        """The metadata files in use: one at the top, or one in each split folder."""
        tables = []
        for folder in ("", *(f"{name}/" for name in self.split_of)):
            found = [folder + name for name in _METADATA if folder + name in self.files]
            tables += found[:1]
            for unused in found[1:]:
                self.files.pop(unused)
                self.notes.append(f"{unused} was not used: {found[0]} goes before it")
            if folder == "" and tables:
                break
        return tables

    def _from_tables(self, tables: list[str], file_column: str) -> list[SampleRef]:
        entries = [(table, self.files.pop(table)) for table in tables]
        labels: dict[str, str] = {}
        conflicting: set[str] = set()
        for table, entry in entries:
            data, most = self._table_bytes(entry), LINES_A_FILE * self.source.limits.entries
            rows, faults = parse_table(data, entry.path, file_column=file_column, max_lines=most)
            self.faults.merge(faults)
            folder = table[: table.rfind("/") + 1]
            for row in rows:
                self._take_row(row, folder, shown(entry.path), labels, conflicting)
        samples = []
        for path, entry in self.files.items():
            if path in labels and path not in conflicting:
                samples.append(SampleRef(entry.path, labels[path], self._split(path), entry.size))
            elif path not in labels:
                self.faults.add(shown(entry.path), f"not named in {shown(entries[0][1].path)}, so it has no label")
        return samples

    def _take_row(self, row: Row, folder: str, table: str, labels: dict[str, str], conflicting: set[str]) -> None:
        path = nfc(clean_path(folder + row.file))
        where = f"{table}:{row.line}"
        if path not in self.files:
            self.faults.add(where, f"{shown(row.file)} is not in the archive; paths are relative to the table")
        elif labels.setdefault(path, row.label) != row.label and path not in conflicting:
            conflicting.add(path)
            self.faults.add(
                where,
                f"{shown(row.file)} has two labels, {shown(labels[path])} and {shown(row.label)}; it is left out",
            )

    def _from_folders(self) -> list[SampleRef]:
        samples = []
        depth = 2 if self.split_of else 1
        for path, entry in self.files.items():
            parts = path.split("/")
            if len(parts) <= depth:
                self._leave_out_loose(entry)
            elif len(parts) > depth + 1:
                expected = "split/class/picture" if self.split_of else "class/picture"
                self.faults.add(shown(entry.path), f"lies {len(parts) - 1} folders deep; accepted is {expected}")
            elif fault := label_fault(parts[-2]):
                self.faults.add(shown(entry.path), f"its folder's name {fault}, so it has no label")
            else:
                samples.append(SampleRef(entry.path, parts[-2], self._split(path), entry.size))
        return samples

    def _leave_out_loose(self, entry: Entry) -> None:
        if is_archive_name(entry.path):
            reason = "an archive inside the archive; it is not unpacked: put the class folders themselves in one zip"
        else:
            reason = "lies in no class folder, so it has no label"
        self.faults.add(shown(entry.path), reason)

    def _split(self, path: str) -> str:
        return self.split_of.get(path.split("/", 1)[0], TRAIN) if self.split_of else TRAIN

    def _empty_classes(self) -> Iterable[str]:
        """Labels of class folders in which no file is."""
        depth = 2 if self.split_of else 1
        for folder in self.source.folders:
            if folder.startswith(self.root):
                parts = nfc(folder[len(self.root) :]).split("/")
                in_split = not self.split_of or parts[0] in self.split_of
                if len(parts) == depth and parts[-1] and in_split and label_fault(parts[-1]) is None:
                    yield parts[-1]

    def _finish(self, kind: LayoutKind, samples: list[SampleRef]) -> Layout:
        labels = {sample.label for sample in samples}
        if kind == "folders":
            labels.update(self._empty_classes())
        for label in sorted(set(self.words) - labels):
            self.notes.append(f"classes.json names {shown(label)}, and no class is called that")
        classes = {label: self.words.get(label) or ClassInfo.from_label(label) for label in sorted(labels)}
        present = {sample.split for sample in samples}
        return Layout(
            kind=kind,
            samples=tuple(samples),
            classes=classes,
            splits=tuple(split for split in (TRAIN, "val", "test") if split in present),
            skipped=dict(self.source.skipped),
            notes=tuple(self.notes),
            faults=self.faults,
        )


def _wrapper(paths: Iterable[str]) -> str:
    """The one folder around everything, with its slash, or an empty string.

    A lone folder is a wrapper when it holds folders, or tables, of its own; a lone class folder or a lone split folder
    is not. Files beside it (a README) do not matter unless they describe the data set.
    """
    top: str | None = None
    seconds: set[str] = set()
    has_table = False
    for path in paths:
        first, slash, rest = path.partition("/")
        if not slash:
            if first in (*_METADATA, _LABELS):
                return ""
            continue
        if top is not None and first != top:
            return ""
        top = first
        second, deeper, _ = rest.partition("/")
        if deeper:
            seconds.add(second)
        has_table = has_table or rest in (*_METADATA, _LABELS)
    if top is None or not (seconds or has_table):
        return ""
    if _is_split(top) and not (seconds and all(map(_is_split, seconds))):
        return ""
    return f"{top}/"


def _is_split(folder: str) -> bool:
    return folder.casefold() in SPLIT_NAMES


def _split_folders(files: Iterable[str]) -> dict[str, str]:
    """Top folder -> split, when every top folder is called like a split; else empty."""
    tops = {path.partition("/")[0] for path in files if "/" in path}
    if not tops or not all(map(_is_split, tops)):
        return {}
    return {top: SPLIT_NAMES[top.casefold()] for top in sorted(tops)}
