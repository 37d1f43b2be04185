"""What a loaded data set is, and the checks that all layouts share."""

from __future__ import annotations

import os
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from npt_core.errors import DatasetError, Fault

GUIDE = "DATASETS.md of CoOp (https://github.com/KaiyangZhou/CoOp) says where to get it and how to lay it out"
PARTS = ("train", "val", "test")
SHOWN = 5
"""How many faults a message spells out; `DatasetError.faults` has them all."""

_short = reprlib.Repr()
_short.maxstring = _short.maxother = _short.maxlong = 120


@dataclass(frozen=True, slots=True)
class Item:
    """One picture."""

    path: Path
    label: int
    classname: str


@dataclass(frozen=True)
class PaperSet:
    """One data set of the paper."""

    name: str
    title: str
    classnames: tuple[str, ...]
    """By label. In words (`_` is a space), no two alike."""
    template: str
    """CoOp's hand-written prompt, with `{}` for the class name."""
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    """Empty where the set has none: ImageNet, whose published validation pictures are the test part here."""
    test: tuple[Item, ...]


@dataclass(frozen=True)
class Place:
    """Where a data set lies: its folder under the root, and what must be in it (folders end with `/`)."""

    title: str
    folder: str
    holds: tuple[str, ...]

    def find(self, root: Path) -> Path:
        """The data set's folder, with all that must be in it."""
        if not os.path.isdir(root):
            raise DatasetError(
                f"The folder of data sets {root} is not there; a folder holding {self.folder}/ is expected. {GUIDE}."
            )
        folder = root / self.folder
        for held in ("/", *self.holds):
            path = root / f"{self.folder}/{held}"
            kind, there = ("folder", os.path.isdir) if held.endswith("/") else ("file", os.path.isfile)
            if not there(path):
                expected = f"expected in {folder}: {', '.join(self.holds)}"
                raise DatasetError(f"{self.title} lacks the {kind} {path}; {expected}. {GUIDE}.")
        return folder


def short(value: object) -> str:
    """A value as a message shows it: escaped, and cut where it is long or deep."""
    return _short.repr(value)


def words(classname: str) -> str:
    """A class name as it stands in a prompt, as CoOp writes it there."""
    return " ".join(classname.replace("_", " ").split())


def refuse(where: Path, faults: Sequence[Fault], todo: str) -> None:
    """Raise one error for all faults of one file or folder, if there are any."""
    if faults:
        listed = "; ".join(f"{fault.path}: {fault.message}" for fault in faults[:SHOWN])
        more = f"; and {len(faults) - SHOWN} more" if len(faults) > SHOWN else ""
        raise DatasetError(f"{where} has {len(faults)} fault(s): {listed}{more}. {todo}.", faults)


def refuse_missing(title: str, where: Path, items: Iterable[Item]) -> None:
    """Every picture must be a file: half a data set gives numbers that look like results."""
    wanted = [item.path for item in items]
    missing = [path for path in wanted if not os.path.isfile(path)]  # Path.is_file raises for a name that is too long
    if missing:
        faults = [Fault(short(str(path.relative_to(where))), "no such picture") for path in missing]
        listed = ", ".join(fault.path for fault in faults[:SHOWN]) + (", ..." if len(faults) > SHOWN else "")
        raise DatasetError(
            f"{title}: {len(missing)} of {len(wanted)} pictures are not in {where}: {listed}. Unpack the pictures "
            f"again; {GUIDE}.",
            faults,
        )


def read_lines(path: Path) -> list[tuple[int, str]]:
    """The lines of a text file that hold anything, with their numbers from 1."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} cannot be read as text in UTF-8 ({error}). {GUIDE}.") from error
    return [(number, line.strip()) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


def name_faults(names: Mapping[int, str]) -> list[Fault]:
    """What is wrong with label -> class name: labels count from 0, names are text and differ."""
    faults: list[Fault] = []
    if len(names) < 2:
        faults.append(Fault("classes", f"{len(names)}; at least 2 are needed"))
    jump = next(((want, got) for want, got in enumerate(sorted(names)) if want != got), None)
    if jump:
        faults.append(Fault("labels", f"nothing has label {jump[0]}, yet {short(jump[1])} is there; they count from 0"))
    first: dict[str, int] = {}
    for label, name in sorted(names.items()):
        if not name or not name.isprintable():
            faults.append(Fault(f"label {short(label)}", f"the class name {short(name)} is no printable text"))
        elif first.setdefault(name, label) != label:
            faults.append(Fault(short(name), f"names label {first[name]} and label {short(label)}"))
    return faults


def part_faults(names: Mapping[int, str], parts: Mapping[str, Sequence[tuple[str, int]]]) -> list[Fault]:
    """What is wrong with the parts, each a list of (picture, label).

    Train and test have every class. No picture is in two parts: it would be measured on what it was tuned on.
    """
    faults: list[Fault] = []
    for part in ("train", "test"):
        absent = sorted(names.keys() - {label for _, label in parts[part]})
        if absent:
            some = ", ".join(short(names[label]) for label in absent[:SHOWN])
            faults.append(Fault(part, f"no picture of {len(absent)} of {len(names)} classes ({some})"))
    home: dict[str, str] = {}
    for part, entries in parts.items():
        for picture, _ in entries:
            if home.setdefault(picture, part) != part:
                faults.append(Fault(short(picture), f"is in {home[picture]} and in {part}"))
    return faults
