"""ImageNet (ILSVRC 2012): a folder a class, named by its WordNet id, and the class names of CLIP.

CoOp tests on the published validation pictures and tunes nothing on them; there is no val part. Labels are the places
of the sorted folder names.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from benchmarks.paper_sets.items import GUIDE, Item, PaperSet, Place, name_faults, read_lines, refuse, short, words
from npt_core.errors import DatasetError, Fault

PLACE = Place("ImageNet", "imagenet", ("images/train/", "images/val/", "classnames.txt"))
TEMPLATE = "a photo of a {}."
SUFFIXES = (".jpeg", ".jpg", ".png")
OWN_WORDS = {"n04355933": "sunglass", "n04008634": "projectile"}
"""CLIP's list names two pairs of classes alike (sunglasses, missile), which no text can tell apart. Where the list does
so, these two get WordNet's own word for them."""

_WNID = re.compile(r"n[0-9]{8}")


def read(root: Path) -> PaperSet:
    """Read ImageNet.

    Raises:
        DatasetError: See `load`.
    """
    folder = PLACE.find(root)
    listing = folder / "classnames.txt"
    named = read_classnames(listing)
    wnids = sorted(named)
    names = {label: named[wnid] for label, wnid in enumerate(wnids)}
    refuse(listing, name_faults(names), f"Take the published classnames.txt; {GUIDE}")
    train, test = (_items(folder / "images" / part, wnids, names, listing) for part in ("train", "val"))
    return PaperSet("imagenet", PLACE.title, tuple(names.values()), TEMPLATE, train, (), test)


def read_classnames(path: Path) -> dict[str, str]:
    """WordNet id to class name, from lines such as `n01440764 tench`.

    Raises:
        DatasetError: A line of another form, or an id twice.
    """
    named: dict[str, str] = {}
    faults = []
    for number, line in read_lines(path):
        wnid, _, name = line.partition(" ")
        if not _WNID.fullmatch(wnid) or not name.isprintable() or not words(name):
            faults.append(Fault(f"line {number}", f"{short(line)} is no WordNet id and class name"))
        elif wnid in named:
            faults.append(Fault(f"line {number}", f"{wnid} was there before"))
        else:
            named[wnid] = words(name)
    refuse(path, faults, f"Take the published classnames.txt; {GUIDE}")
    for wnid, own in OWN_WORDS.items():
        if list(named.values()).count(named.get(wnid, "")) > 1:
            named[wnid] = own
    return named


def _items(folder: Path, wnids: list[str], names: dict[int, str], listing: Path) -> tuple[Item, ...]:
    found = {entry.name for entry in _entries(folder) if entry.is_dir()}
    if not found:
        raise DatasetError(
            f"{folder} has no folder of a class; one for each WordNet id of {listing} is expected. The archive of the "
            "validation pictures is flat: sort it into such folders first."
        )
    faults = [Fault(wnid, "no folder of that class") for wnid in wnids if wnid not in found]
    faults += [Fault(short(name), f"a folder that {listing.name} does not name") for name in sorted(found - set(wnids))]
    refuse(folder, faults, f"One folder for each WordNet id of {listing} is expected; {GUIDE}")
    items: list[Item] = []
    for label, wnid in enumerate(wnids):
        entries = _entries(folder / wnid)
        pictures = sorted(e.name for e in entries if e.name.lower().endswith(SUFFIXES) and e.is_file())
        if not pictures:
            faults.append(Fault(wnid, f"no picture ({', '.join(SUFFIXES)}) in this folder"))
        items += [Item(folder / wnid / picture, label, names[label]) for picture in pictures]
    refuse(folder, faults, f"Unpack the pictures again; {GUIDE}")
    return tuple(items)


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What a folder holds but for hidden files, such as macOS's `._` twins of pictures."""
    try:
        with os.scandir(folder) as entries:
            return [entry for entry in entries if not entry.name.startswith(".")]
    except OSError as error:
        raise DatasetError(f"{folder} cannot be read ({error}); {GUIDE}.") from error
