"""Photographs' stand-ins: JPEG files of the sizes that cameras and web pages send, with detail at every scale."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_pictures(folder: Path, count: int, sides: tuple[int, int] = (224, 512), seed: int = 0) -> list[bytes]:
    """Write so many different JPEG files of random sides between the two, and return them.

    Noise at several scales added up, which compresses about as photographs do.
    """
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        width, height = (int(side) for side in rng.integers(sides[0], sides[1] + 1, 2))
        total = np.zeros((height, width, 3), np.float32)
        for cell, weight in ((1, 0.1), (2, 0.1), (4, 0.1), (16, 0.2), (64, 0.5)):
            small = rng.integers(0, 256, (height // cell + 1, width // cell + 1, 3), dtype=np.uint8)
            wide = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
            total += np.asarray(wide, np.float32) * weight
        path = folder / f"{number:04d}.jpg"
        Image.fromarray(total.clip(0, 255).astype(np.uint8)).save(path, "JPEG", quality=90)
        found.append(path.read_bytes())
    return found
