"""The real handwritten digits that scikit-learn carries (UCI Optical Recognition of Handwritten Digits, test part).

Only for measuring and for the example data set; pretraining never sees one. They are split once, for good, into a half
to look at while improving and a half that is reported.

E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning Repository, 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image

SPLIT_SEED = 20240229
SIZE = 64
HALVES = ("look", "report")


@dataclass(frozen=True)
class RealDigits:
    """One half: `images` (n, 64, 64) uint8, dark ink on white; `labels` "0".."9"; `rows` in scikit-learn's order."""

    images: NDArray[np.uint8]
    labels: list[str]
    rows: NDArray[np.int64]

    def pictures(self) -> list[Image.Image]:
        """Grey Pillow images, ready to be saved as PNG."""
        return [Image.fromarray(image) for image in self.images]


def split_rows(labels: NDArray[np.int64]) -> dict[str, NDArray[np.int64]]:
    """The one split: every digit's rows are shuffled with a fixed seed and halved; an odd one goes to `look`."""
    rng = np.random.default_rng(SPLIT_SEED)
    parts: dict[str, list[NDArray[np.int64]]] = {half: [] for half in HALVES}
    for digit in range(10):
        rows = rng.permutation(np.flatnonzero(labels == digit))
        middle = (len(rows) + 1) // 2
        parts["look"].append(rows[:middle])
        parts["report"].append(rows[middle:])
    return {half: np.sort(np.concatenate(found)) for half, found in parts.items()}


@lru_cache(maxsize=2)
def load_half(half: str) -> RealDigits:
    """One half of the real digits.

    Args:
        half: `look` or `report`.

    Raises:
        ValueError: Another name.
    """
    if half not in HALVES:
        raise ValueError(f"half must be 'look' or 'report', not {half!r}.")
    from sklearn.datasets import load_digits

    bunch = load_digits()
    rows = split_rows(bunch.target)[half]
    return RealDigits(
        np.stack([enlarge(grid) for grid in bunch.images[rows]]), [str(label) for label in bunch.target[rows]], rows
    )


def enlarge(grid: NDArray[np.float64]) -> NDArray[np.uint8]:
    """Ink counts (8, 8) in 0..16 to a (64, 64) picture, dark ink on white paper, bicubic."""
    paper = np.round(255 - grid * (255 / 16)).astype(np.uint8)
    return np.asarray(Image.fromarray(paper).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
