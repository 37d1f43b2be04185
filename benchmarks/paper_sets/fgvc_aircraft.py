"""FGVC-Aircraft: its own lists, variants as classes. Labels are the places in `variants.txt`.

`images_variant_<part>.txt` has a picture's number and its variant in each line: `1025794 707-320`.
"""

from __future__ import annotations

import re
from pathlib import Path

from benchmarks.paper_sets.items import (
    GUIDE,
    PARTS,
    Item,
    PaperSet,
    Place,
    name_faults,
    part_faults,
    read_lines,
    refuse,
    refuse_missing,
    short,
    words,
)
from npt_core.errors import Fault

LISTS = {part: f"images_variant_{part}.txt" for part in PARTS}
PLACE = Place("FGVCAircraft", "fgvc_aircraft", ("images/", "variants.txt", *LISTS.values()))
TEMPLATE = "a photo of a {}, a type of aircraft."

_NUMBER = re.compile(r"[0-9]+")
_TAKE_PUBLISHED = f"Take the lists of the published archive; {GUIDE}"


def read(root: Path) -> PaperSet:
    """Read FGVC-Aircraft.

    Raises:
        DatasetError: See `load`.
    """
    folder = PLACE.find(root)
    variants = [name for _, name in read_lines(folder / "variants.txt")]
    labels = {name: label for label, name in enumerate(variants)}
    images = folder / "images"
    items = {part: _items(folder / LISTS[part], images, labels) for part in PARTS}
    names = {label: words(name) for label, name in enumerate(variants)}
    pictures = {part: [(item.path.name, item.label) for item in items[part]] for part in PARTS}
    refuse(folder, [*name_faults(names), *part_faults(names, pictures)], _TAKE_PUBLISHED)
    refuse_missing(PLACE.title, images, (item for part in PARTS for item in items[part]))
    return PaperSet(
        "fgvc_aircraft", PLACE.title, tuple(names.values()), TEMPLATE, items["train"], items["val"], items["test"]
    )


def _items(listing: Path, images: Path, labels: dict[str, int]) -> tuple[Item, ...]:
    items = []
    faults = []
    for number, line in read_lines(listing):
        picture, _, variant = line.partition(" ")
        if not _NUMBER.fullmatch(picture) or not variant.strip():
            faults.append(Fault(f"line {number}", f"{short(line)} is no picture's number and variant"))
        elif variant.strip() not in labels:
            faults.append(Fault(f"line {number}", f"variants.txt has no variant {short(variant.strip())}"))
        else:
            items.append(Item(images / f"{picture}.jpg", labels[variant.strip()], words(variant)))
    refuse(listing, faults, _TAKE_PUBLISHED)
    return tuple(items)
