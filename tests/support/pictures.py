"""Small labelled pictures that a random tower can tell apart: noise in one colour a class."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (200, 30, 30), "green": (30, 190, 40), "blue": (30, 40, 210), "yellow": (210, 200, 30)}


def picture(colour: tuple[int, int, int], seed: int, side: int = 32) -> Image.Image:
    """A noisy square of one colour; another seed is another picture."""
    rng = np.random.default_rng(seed)
    pixels = np.array(colour) + rng.normal(0, 25, (side, side, 3))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def write_folder(
    root: Path, counts: Mapping[str, int], *, split: str | None = None, first_seed: int = 0, side: int = 32
) -> Path:
    """Write `counts[label]` pictures of each class as root[/split]/label/NNN.png."""
    for number, (label, count) in enumerate(counts.items()):
        folder = root / split / label if split else root / label
        folder.mkdir(parents=True, exist_ok=True)
        colour = COLOURS.get(label) or tuple(int(v) for v in np.random.default_rng(number).integers(0, 255, 3))
        for i in range(count):
            picture(colour, first_seed + 1000 * number + i, side).save(folder / f"{i:03d}.png")
    return root
