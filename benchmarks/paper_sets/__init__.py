"""The 11 data sets of the NPT paper, read from the folders that CoOp's DATASETS.md describes; nothing is downloaded.

from benchmarks.paper_sets import load, long_tail

pets = load("oxford_pets", Path("DATA"))  # DATA/oxford_pets/images and its split_zhou_OxfordPets.json
train = long_tail(pets.train, n_max=16, tau=0.06, seed=0)

docs/paper_sets.md says what is expected where. Labels, class names and templates are those of CoOp (arXiv 2109.01134),
read off its public code for facts; no code of it is here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from benchmarks.paper_sets import fgvc_aircraft, imagenet, split_zhou
from benchmarks.paper_sets.draws import long_tail
from benchmarks.paper_sets.items import Item, PaperSet
from npt_core.errors import ConfigError

__all__ = ["NAMES", "Item", "PaperSet", "load", "long_tail"]

NAMES: tuple[str, ...] = (
    "imagenet",
    "caltech101",
    "oxford_pets",
    "stanford_cars",
    "oxford_flowers",
    "food101",
    "fgvc_aircraft",
    "sun397",
    "dtd",
    "eurosat",
    "ucf101",
)
"""In the order of the paper's tables."""

_OWN_FORMAT: dict[str, Callable[[Path], PaperSet]] = {"imagenet": imagenet.read, "fgvc_aircraft": fgvc_aircraft.read}


def load(name: str, root: Path) -> PaperSet:
    """Read one data set.

    Args:
        name: One of `NAMES`.
        root: The folder that holds the data sets' folders, `$DATA` in CoOp's DATASETS.md.

    Returns:
        Class names by label, CoOp's template, and the items of train, val and test. Every picture was seen to be there.

    Raises:
        ConfigError: No set has that name.
        DatasetError: A folder or file is missing, or what a split file says cannot be used.
    """
    if name in _OWN_FORMAT:
        return _OWN_FORMAT[name](root)
    if name in split_zhou.LAYOUTS:
        return split_zhou.read(split_zhou.LAYOUTS[name], root)
    raise ConfigError(f"There is no data set {name!r} in the paper's table; there are {', '.join(NAMES)}.")
