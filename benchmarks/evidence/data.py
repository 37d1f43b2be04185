"""Labelled sets as the protocols see them, and their features and pixels, each computed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from benchmarks.evidence.sets import SETS
from benchmarks.paper_sets import NAMES as PAPER_SETS
from benchmarks.paper_sets import load as load_paper_set
from npt_core.clip import Backbone
from npt_core.data.images import decode_image
from npt_core.data.sampling import stratified_split
from npt_core.errors import ConfigError
from npt_core.tuning.features import encode_pixels, feature_key
from npt_core.tuning.folder_cache import FolderFeatureCache
from npt_core.tuning.views import view_of

POOL_SEED = 0
"""Which half of a drawn set training sets are drawn from: the same for every run."""

ENCODED_AT_ONCE = 256
MAX_PIXEL_BYTES = 1 << 30


@dataclass(frozen=True)
class LabelledSet:
    """Pictures with labels, some to draw training sets from and others to measure on.

    Attributes:
        name: Of the set.
        names: Class names by label, in the order in which the first half is base.
        labels: (n,) label of each picture.
        pool: Positions that training sets are drawn from.
        held: Positions that are measured on.
        templates: Of the hand-written prompt; empty for those that suit the backbone.
        picture: The RGB picture at a position.
        content: What tells a picture from every other, changed ones included.
    """

    name: str
    names: tuple[str, ...]
    labels: Tensor
    pool: Tensor
    held: Tensor
    templates: tuple[str, ...]
    picture: Callable[[int], Image.Image]
    content: Callable[[int], str]


def open_set(name: str, folder: Path, paper_root: Path | None = None) -> LabelledSet:
    """Return a set by name; a drawn one is drawn once and kept in `folder`.

    Args:
        name: One of `SETS`, or of the paper's sets.
        folder: For drawn pictures.
        paper_root: Where the paper's sets lie.

    Raises:
        ConfigError: There is no such set, or it is one of the paper's and no folder was given.
        DatasetError: The folder of a paper's set is not laid out as expected.
    """
    if name in SETS:
        return _drawn(name, folder)
    if name not in PAPER_SETS:
        raise ConfigError(f"There is no data set {name!r}; there are {', '.join([*SETS, *PAPER_SETS])}.")
    if paper_root is None:
        raise ConfigError(f"{name} must be on this machine: say where with --root, see docs/paper_sets.md.")
    return _of_the_paper(name, paper_root)


def _drawn(name: str, folder: Path) -> LabelledSet:
    path = folder / f"{name}.npz"
    if not path.exists():
        pictures = SETS[name]()
        found = sorted({label for _, label in pictures})
        folder.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        images = np.stack([np.asarray(image.convert("RGB")) for image, _ in pictures])
        np.savez(part, images=images, labels=np.array([found.index(one) for _, one in pictures]), names=np.array(found))
        part.replace(path)
    with np.load(path, allow_pickle=False) as kept:
        images, labels, names = kept["images"], torch.from_numpy(kept["labels"]), kept["names"].tolist()
    pool, held = stratified_split(labels.tolist(), 0.5, POOL_SEED)
    return LabelledSet(
        name,
        tuple(names),
        labels,
        torch.from_numpy(pool),
        torch.from_numpy(held),
        (),
        lambda i: Image.fromarray(images[i]),
        lambda i: hashlib.sha256(images[i].tobytes()).hexdigest(),
    )


def _of_the_paper(name: str, root: Path) -> LabelledSet:
    found = load_paper_set(name, root)
    items = [*found.train, *found.test]

    def picture(i: int) -> Image.Image:
        return decode_image(items[i].path.read_bytes())

    return LabelledSet(
        name,
        found.classnames,
        torch.tensor([one.label for one in items]),
        torch.arange(len(found.train)),
        torch.arange(len(found.train), len(items)),
        (found.template,),
        picture,
        lambda i: hashlib.sha256(items[i].path.read_bytes()).hexdigest(),
    )


class Encoder:
    """Features and pixels of (picture, view) pairs, kept in memory and, features, on disk.

    Args:
        backbone: The frozen towers.
        folder: Of the feature cache; several processes may share it.
    """

    def __init__(self, backbone: Backbone, folder: Path) -> None:
        self.backbone = backbone
        self.cache = FolderFeatureCache(folder / "features")
        self._features: dict[tuple[str, int, int], Tensor] = {}
        self._pixels: dict[tuple[str, int, int], Tensor] = {}
        self._content: dict[tuple[str, int], str] = {}

    def features(self, data: LabelledSet, rows: Tensor, views: int = 1) -> Tensor:
        """Return (n, V, d) unit-norm features of the pictures at `rows`."""
        wanted = [(data.name, row, view) for row in rows.tolist() for view in range(views)]
        for start in range(0, len(wanted), ENCODED_AT_ONCE):
            self._encode(data, [one for one in wanted[start : start + ENCODED_AT_ONCE] if one not in self._features])
        if not wanted:
            return torch.zeros(0, views, self.backbone.d)
        return torch.stack([self._features[one] for one in wanted]).view(len(rows), views, -1)

    def _encode(self, data: LabelledSet, wanted: Sequence[tuple[str, int, int]]) -> None:
        keys = {feature_key(self.backbone, self._key(data, row), view): (name, row, view) for name, row, view in wanted}
        for key, value in self.cache.get_many(list(keys)).items():
            self._features[keys.pop(key)] = torch.from_numpy(np.array(value, dtype=np.float32))
        if not keys:
            return
        pixels = torch.stack([self.pixel(data, row, view) for _, row, view in keys.values()])
        found = encode_pixels(self.backbone, pixels.to(self.backbone.device))
        self.cache.put_many({key: value.numpy() for key, value in zip(keys, found, strict=True)})
        self._features.update(zip(keys.values(), found, strict=True))

    def _key(self, data: LabelledSet, row: int) -> str:
        if (data.name, row) not in self._content:
            self._content[data.name, row] = data.content(row)
        return self._content[data.name, row]

    def pixel(self, data: LabelledSet, row: int, view: int) -> Tensor:
        """Return (3, H, W) preprocessed pixels of one view of one picture."""
        kept = self._pixels.get((data.name, row, view))
        if kept is None:
            kept = self.backbone.load_pixels(view_of(data.picture(row), self._key(data, row), view))
            if (len(self._pixels) + 1) * kept.nbytes <= MAX_PIXEL_BYTES:
                self._pixels[data.name, row, view] = kept
        return kept


@dataclass(frozen=True)
class Pixels:
    """The pixels of some pictures of a set, as the trainer asks for them."""

    encoder: Encoder
    data: LabelledSet
    rows: Tensor

    def batch(self, rows: Sequence[int], views: Sequence[int]) -> Tensor:
        """Return (B, 3, H, W) pixels; `rows` are positions among these pictures."""
        positions = self.rows[torch.as_tensor(rows)].tolist()
        found = [self.encoder.pixel(self.data, row, int(view)) for row, view in zip(positions, views, strict=True)]
        return torch.stack(found).to(self.encoder.backbone.device)
