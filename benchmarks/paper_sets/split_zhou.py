"""The nine sets whose split CoOp published as `split_zhou_<Name>.json`.

Such a file is `{"train": [[path, label, class name], ...], "val": [...], "test": [...]}`; paths are relative to the
set's folder of pictures and separated by `/`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from benchmarks.paper_sets.items import (
    GUIDE,
    PARTS,
    Item,
    PaperSet,
    Place,
    name_faults,
    part_faults,
    refuse,
    refuse_missing,
    short,
    words,
)
from npt_core.errors import DatasetError, Fault

_TAKE_PUBLISHED = f"Take the published split file; {GUIDE}"


@dataclass(frozen=True)
class Layout:
    """One set: where it lies, and what CoOp calls things in it."""

    name: str
    title: str
    folder: str
    images: str
    """Folder of pictures, which the paths of the split file start from; empty for the set's own folder."""
    split: str
    template: str
    also: tuple[str, ...] = ()
    """Folders of pictures to look for where `images` is empty."""
    renamed: Mapping[str, str] = field(default_factory=dict)
    """Folder names that CoOp turns into words when it makes the split; put here into words if they are still there."""


_LAYOUTS = (
    Layout(
        "caltech101",
        "Caltech101",
        "caltech-101",
        "101_ObjectCategories",
        "split_zhou_Caltech101.json",
        "a photo of a {}.",
        renamed={"airplanes": "airplane", "Faces": "face", "Leopards": "leopard", "Motorbikes": "motorbike"},
    ),
    Layout(
        "oxford_pets",
        "OxfordPets",
        "oxford_pets",
        "images",
        "split_zhou_OxfordPets.json",
        "a photo of a {}, a type of pet.",
    ),
    Layout(
        "stanford_cars",
        "StanfordCars",
        "stanford_cars",
        "",
        "split_zhou_StanfordCars.json",
        "a photo of a {}.",
        also=("cars_train", "cars_test"),
    ),
    Layout(
        "oxford_flowers",
        "Flowers102",
        "oxford_flowers",
        "jpg",
        "split_zhou_OxfordFlowers.json",
        "a photo of a {}, a type of flower.",
    ),
    Layout("food101", "Food101", "food-101", "images", "split_zhou_Food101.json", "a photo of {}, a type of food."),
    Layout("sun397", "SUN397", "sun397", "SUN397", "split_zhou_SUN397.json", "a photo of a {}."),
    Layout("dtd", "DTD", "dtd", "images", "split_zhou_DescribableTextures.json", "{} texture."),
    Layout(
        "eurosat",
        "EuroSAT",
        "eurosat",
        "2750",
        "split_zhou_EuroSAT.json",
        "a centered satellite photo of {}.",
        renamed={
            "AnnualCrop": "Annual Crop Land",
            "HerbaceousVegetation": "Herbaceous Vegetation Land",
            "Highway": "Highway or Road",
            "Industrial": "Industrial Buildings",
            "Pasture": "Pasture Land",
            "PermanentCrop": "Permanent Crop Land",
            "Residential": "Residential Buildings",
            "SeaLake": "Sea or Lake",
        },
    ),
    Layout(
        "ucf101",
        "UCF101",
        "ucf101",
        "UCF-101-midframes",
        "split_zhou_UCF101.json",
        "a photo of a person doing {}.",
    ),
)
LAYOUTS = {layout.name: layout for layout in _LAYOUTS}


@dataclass(frozen=True)
class Entry:
    """One line of a split file: a relative path of plain parts, a label from 0, a class name in words."""

    path: PurePosixPath
    label: int
    classname: str


def read(layout: Layout, root: Path) -> PaperSet:
    """Read one of `LAYOUTS`.

    Raises:
        DatasetError: See `load`.
    """
    folders = tuple(f"{name}/" for name in ((layout.images,) if layout.images else layout.also))
    place = Place(layout.title, layout.folder, (*folders, layout.split)).find(root)
    split = place / layout.split
    try:
        raw = split.read_bytes()
    except OSError as error:
        raise DatasetError(f"{split} cannot be read ({error}); {GUIDE}.") from error
    entries = parse(raw, split, layout.renamed)
    names = {entry.label: entry.classname for part in PARTS for entry in entries[part]}
    images = place / layout.images
    items = {
        part: tuple(Item(images / entry.path, entry.label, names[entry.label]) for entry in entries[part])
        for part in PARTS
    }
    refuse_missing(layout.title, images, (item for part in PARTS for item in items[part]))
    classnames = tuple(names[label] for label in range(len(names)))
    return PaperSet(layout.name, layout.title, classnames, layout.template, items["train"], items["val"], items["test"])


def parse(raw: bytes, where: Path, renamed: Mapping[str, str] | None = None) -> dict[str, tuple[Entry, ...]]:
    """Read the text of a split file and check all that can be checked without the pictures.

    Args:
        raw: The file's content, JSON.
        where: The file, for messages; not opened.
        renamed: Class names to replace.

    Returns:
        The entries of each of `PARTS`, in the file's order.

    Raises:
        DatasetError: No JSON, not of this form, a path that leads out of the folder of pictures, labels and class
            names that do not match, a class without a picture to train or test on, a picture in two parts.
    """
    try:
        split: Any = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise DatasetError(f"{where} is no JSON ({short(str(error))}). {_TAKE_PUBLISHED}.") from error
    found = split if isinstance(split, dict) else {}
    lacking = [part for part in PARTS if not isinstance(found.get(part), list)]
    if lacking:
        raise DatasetError(
            f"{where} has no list of entries under {', '.join(lacking)}; lists under train, val and test are expected. "
            f"{_TAKE_PUBLISHED}."
        )
    faults: list[Fault] = []
    entries: dict[str, tuple[Entry, ...]] = {}
    for part in PARTS:
        good = []
        for number, line in enumerate(found[part]):
            wrong = _wrong(line)
            if wrong:
                faults.append(Fault(f"{part}[{number}]", wrong))
            else:
                name = renamed.get(line[2], line[2]) if renamed else line[2]
                good.append(Entry(PurePosixPath(line[0]), line[1], words(name)))
        entries[part] = tuple(good)
    refuse(where, faults, f"An entry is [path, label, class name]. {_TAKE_PUBLISHED}")
    _refuse_unlike(where, entries)
    return entries


def _wrong(line: object) -> str:
    """What keeps a line of the file from being an entry; nothing if it is one."""
    if not isinstance(line, list) or len(line) != 3:
        return f"{short(line)} is no [path, label, class name]"
    path, label, name = line
    if not isinstance(path, str) or not path.isprintable() or not PurePosixPath(path).parts:
        return f"the path {short(path)} is no printable text"
    if "\\" in path or PureWindowsPath(path).drive or path.startswith("/") or ".." in PurePosixPath(path).parts:
        return f"the path {short(path)} is absolute, has '..', or is not separated by '/'"
    if type(label) is not int or label < 0:
        return f"the label {short(label)} is no whole number from 0"
    if not isinstance(name, str) or not name.isprintable() or not words(name):
        return f"the class name {short(name)} is no printable text"
    return ""


def _refuse_unlike(where: Path, entries: Mapping[str, tuple[Entry, ...]]) -> None:
    """One label has one name everywhere, and classes and parts are whole."""
    names: dict[int, str] = {}
    faults = []
    for part in PARTS:
        for number, entry in enumerate(entries[part]):
            known = names.setdefault(entry.label, entry.classname)
            if known != entry.classname:
                told = f"label {short(entry.label)} is {short(entry.classname)} here and {short(known)} before"
                faults.append(Fault(f"{part}[{number}]", told))
    pictures = {part: [(str(entry.path), entry.label) for entry in entries[part]] for part in PARTS}
    refuse(where, faults or [*name_faults(names), *part_faults(names, pictures)], _TAKE_PUBLISHED)
